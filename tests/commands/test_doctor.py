"""`localvit doctor`: what it knows, and what it complains about."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from localvit.commands import doctor
from localvit.commands import doctor as examine

Usage = type(shutil.disk_usage("."))


@pytest.fixture
def plenty(monkeypatch):
    """A machine with room for everything."""
    monkeypatch.setattr(examine, "_memory", lambda: (64 << 30, 32 << 30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 << 30, 50 << 30, 50 << 30))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def test_facts(plenty, capsys):
    doctor.main(["--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["complaints"] == []
    assert facts["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert facts["library"]["imports"]
    assert facts["library"]["configs"] > 20
    assert {"mmcv", "nms"} <= facts["operators"].keys() or facts["operators"]["all operators"] == "mmcv"
    assert facts["PyTorch"]["threads"] == 1


def test_paths_are_not_told(plenty, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "/home/somebody/cache")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    doctor.main([])
    out = capsys.readouterr().out
    assert "somebody" not in out
    assert str(REPOSITORY) not in out
    assert "OMP_NUM_THREADS: 7" in out
    assert "Everything fits." in out


def test_complaints(plenty, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    monkeypatch.setattr(examine, "_memory", lambda: (2 << 30, 1 << 30))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    monkeypatch.setattr(
        examine,
        "_versions",
        lambda: {"mmcv": "2.1.0", "mmcv-lite": "2.1.0", "setuptools": "82.0.1", "pycocotools": "2"},
    )
    with pytest.raises(SystemExit) as stop:
        doctor.main([])
    assert stop.value.code == 1
    fixes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fix: ")]
    for advice in (
        "--shm-size=8g",
        "with_cp=True",
        "--work-dir",
        "OMP_NUM_THREADS",
        "setuptools<82",
        "uninstall -y mmcv",
    ):
        assert sum(advice in line for line in fixes) == 1 + (advice == "--work-dir"), (advice, fixes)


@pytest.mark.parametrize(
    ("versions", "together"),
    [
        ({"mmcv": "2.1.0", "mmcv-lite": "2.1.0"}, ["mmcv and mmcv-lite"]),
        ({"mmdet": "3.3.0", "onedl-mmdetection": "3.5.1", "mmengine": "0.10.7"}, ["mmdet and onedl-mmdetection"]),
        ({"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmdetection": "3.5.1", "setuptools": "82"}, []),
    ],
)
def test_packages_that_write_the_same_folder(versions, together):
    complaints = list(examine._version_complaints({"setuptools": "81", "pycocotools": "2", **versions}))
    assert [sentence.partition(" are installed together")[0] for sentence in complaints] == together


@pytest.mark.slow
def test_library_that_cannot_be_imported():
    """The one command that has to work where nothing else does."""
    code = (
        "import sys; sys.modules['mmdet'] = None\n"  # as if it were not installed
        "from localvit.__main__ import main\n"
        "for argv in (['doctor'], ['check', 'mask_rcnn_shuffle_nano_shapes']):\n"
        "    try:\n        main(argv)\n    except SystemExit as stop:\n        print('exit code', stop.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.count("exit code 1") == 2
    assert "imports: no" in done.stdout
    assert "Traceback" not in done.stderr
    for said in (done.stdout, done.stderr):
        assert "pip install mmdet==3.3.0" in said
