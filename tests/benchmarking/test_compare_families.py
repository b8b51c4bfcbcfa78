"""The comparison of families, on logs made up in MMEngine's format."""

import copy
import functools
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY

from benchmarking import families
from localvit_det import config as config_module
from localvit_det.errors import ConfigError, UserError

pytestmark = pytest.mark.measuring

CONFIGS = sorted((REPOSITORY / "configs").glob("mask_rcnn_*_nano_shapes.py"))
TOOL = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "tools/compare_families.py")))
GLOBALS = TOOL.main.__wrapped__.__globals__
ENVIRONMENT = dict(device="a machine", threads=2, load=0.1, python="3.11", versions={"torch": "2.x"})

cached = functools.cache(config_module.load_config)


def load_config(path: Path):
    return copy.deepcopy(cached(path))


@pytest.fixture(autouse=True)
def _read_configs_once(monkeypatch) -> None:
    """MMEngine takes most of a second for each."""
    monkeypatch.setitem(GLOBALS, "load_config", load_config)


def write_log(folder: Path, epochs: range, bbox: float, **step: float) -> None:
    """Ten logged iterations an epoch, a validation after each epoch."""
    lines = []
    for epoch in epochs:
        for i in range(10):
            lines.append(dict(loss=2 / epoch, time=0.5 if i else 9.0, epoch=epoch, iter=10 * epoch + i - 9, **step))
        lines.append({"coco/bbox_mAP": bbox * epoch, "coco/segm_mAP": 2 * bbox * epoch, "time": 0.1, "step": epoch})
    (folder / "vis_data").mkdir(parents=True)
    (folder / "vis_data/scalars.json").write_text("\n".join(map(json.dumps, lines)))


def finish(config: Path, work_dir: Path, **changes: object) -> None:
    record = dict(digest=families.digest(load_config(config)), environment=ENVIRONMENT, resident_mib=2000.0)
    (work_dir / config.stem / "run.json").write_text(json.dumps(record | changes))


@pytest.fixture
def trained(tmp_path) -> Path:
    for number, config in enumerate(CONFIGS):
        write_log(tmp_path / config.stem / "20260101_000000", range(1, 9), bbox=0.05 + number / 1000)
        finish(config, tmp_path)
    return tmp_path


def summarise(work_dir: Path) -> str:
    TOOL.main(["--summary-only", "--work-dir", str(work_dir), "--out", str(work_dir / "docs")])
    return (work_dir / "docs/families.md").read_text()


def test_table_and_image(trained):
    page = summarise(trained)
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(CONFIGS) == 10
    assert rows[-1][0] == "| SwinTransformer (MMDetection's, a baseline)"
    # The first config's last validation; the slow first iteration of each epoch does not move the median.
    first = load_config(CONFIGS[0]).model.backbone.type
    assert rows[0][:5] == [f"| {first}", "0.400", "0.800", "0.50", "2000"]
    assert "a machine" in page
    assert "torch 2.x" in page
    assert (trained / "docs/families.png").stat().st_size > 10_000


def test_resumed_training_is_one_run(trained):
    folder = trained / CONFIGS[0].stem
    write_log(folder / "20260102_000000", range(5, 9), bbox=0.1, memory=700)
    run = families.read_run(load_config(CONFIGS[0]), folder)
    assert run.mean_ap[:, 0].tolist() == list(range(1, 9))
    assert run.mean_ap[[3, 4], 1].tolist() == [0.2, 0.5]  # the later log holds from epoch 5 on
    assert len(run.loss) == 80
    assert run.memory == 700  # the GPU's own, where logged


@pytest.mark.parametrize("case", ["missing", "older", "empty"])
def test_mistakes_are_told(trained, capsys, case):
    if case == "missing":
        (trained / CONFIGS[0].stem / "run.json").unlink()
    elif case == "older":
        finish(CONFIGS[0], trained, digest="other")
    else:
        (trained / CONFIGS[0].stem / "20260101_000000/vis_data/scalars.json").write_text("")
    with pytest.raises(SystemExit) as stop:
        summarise(trained)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert CONFIGS[0].stem in said
    assert said.count("\n") == 1
    assert not (trained / "docs").exists()


def test_only_unfinished_ones_are_trained(trained, monkeypatch):
    (trained / CONFIGS[1].stem / "run.json").unlink()
    begun = []

    def train(config, cfg, work_dir):
        begun.append(config)
        finish(config, trained)

    monkeypatch.setitem(GLOBALS, "train", train)
    TOOL.main(["--work-dir", str(trained), "--out", str(trained / "docs")])
    assert begun == [CONFIGS[1]]
    assert (trained / "docs/families.md").is_file()


@pytest.mark.slow
def test_a_failed_training_is_not_finished(tmp_path, monkeypatch):
    config = tmp_path / "broken.py"
    config.write_text("1 / 0")
    with pytest.raises(UserError, match=r"broken\.py failed"):
        families.train(config, load_config(CONFIGS[0]), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_unequal_budgets_are_refused():
    configs = {path: load_config(path) for path in CONFIGS[:2]}
    families.check_equal_budgets(configs)
    configs[CONFIGS[1]].train_cfg.max_epochs += 1
    with pytest.raises(ConfigError, match="train_cfg"):
        families.check_equal_budgets(configs)
