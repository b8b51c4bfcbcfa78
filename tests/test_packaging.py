"""Wheel and source distribution hold all that an installation needs, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

from localvit_det.datasets.synthetic_shapes import make_shapes

pytestmark = pytest.mark.slow
NAME = "mask_rcnn_shuffle_nano_shapes"
QUICK = [
    *(
        "workers=0",
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "train_dataloader.batch_size=2",
        "image_size=96",
    ),
]


def run(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Build both from a copy of the sources, the wheel from the source distribution, with the installed setuptools."""
    pytest.importorskip("build", reason="the extra dev is not installed")
    source = tmp_path_factory.mktemp("source") / "checkout"
    left = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "work_dirs", "data", "dist", "build", "site")
    shutil.copytree(REPOSITORY, source, ignore=left)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", cwd=source)
    return source / "dist"


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def files_of(folder: str, *suffixes: str) -> set[str]:
    found = (path for path in (REPOSITORY / folder).rglob("*") if path.suffix in suffixes)
    return {path.relative_to(REPOSITORY).as_posix() for path in found}


def test_files_of_both(dist):
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    configs = files_of("configs", ".py", ".yml", ".json")
    copies = {"model-index.yml", "tools/train.py", "tools/test.py", *configs}
    suffixes = (".py", ".json", ".html", ".css", ".js", ".txt", ".typed")
    code = {name for folder in ("localvit", "localvit_det") for name in files_of(folder, *suffixes)}
    assert packed == code | {f"localvit_det/.mim/{name}" for name in copies}
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert code | copies | {"pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt"} <= sources


def test_metadata_is_valid(dist):
    pytest.importorskip("twine", reason="the extra dev is not installed")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)


def test_installed_wheel_runs_the_commands(dist, tmp_path):
    """In an environment with nothing but the wheel, which finds the libraries where the tests have them.

    Without `--no-deps` an installation takes gigabytes from an index; `make matrix` does that.
    """
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", "--no-index", only(dist, "*.whl"), cwd=tmp_path)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    work = tmp_path / "work"
    work.mkdir()
    where = (
        "from importlib.util import find_spec; print(*(find_spec(one).origin for one in ('localvit_det', 'localvit')))"
    )
    assert all(path.startswith(str(site)) for path in run(python, "-c", where, cwd=work).split())
    localvit = tmp_path / "venv/bin/localvit"
    files = [one["file"] for one in json.loads(run(localvit, "configs", "--json", "nano_shapes", cwd=work))]
    assert files
    assert all(file.startswith(str(site)) and os.path.isfile(file) for file in files)

    shapes = make_shapes(work / "shapes", num_train=4, num_val=2, size=96)
    options = ["--cfg-options", f"data_root={shapes}", *QUICK]
    assert "bbox" in run(localvit, "train", NAME, "--work-dir", "run", *options, cwd=work)  # checks and evaluates
    run(localvit, "predict", "run", shapes / "val2017", "--out", "drawn", cwd=work)
    assert len(list((work / "drawn").rglob("*.jpg"))) == 2
