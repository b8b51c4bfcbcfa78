"""The comparison of families, on logs made up in MMEngine's format."""

import copy
import functools
import json
from pathlib import Path

import pytest
from conftest import REPOSITORY

from benchmarks import families
from localvit_det import config as config_module
from localvit_det.errors import ConfigError, UserError

pytestmark = pytest.mark.measuring

CONFIGS = sorted((REPOSITORY / "configs").glob("mask_rcnn_*_nano_shapes.py"))
ENVIRONMENT = dict(device="a machine", threads="2", load="0.1", python="3.11", versions="torch 2.x", allocator="")

cached = functools.cache(config_module.load_config)


def load_config(path: Path, options: object = None):
    """The nano config in full length; the tool's options are tested by themselves."""
    return copy.deepcopy(cached(path))


@pytest.fixture(autouse=True)
def _read_configs_once(monkeypatch) -> None:
    """MMEngine takes most of a second for each."""
    monkeypatch.setattr(families, "load_config", load_config)


SEEDS = (0, 1)


def folder_of(work_dir: Path, config: Path, seed: int) -> Path:
    return work_dir / config.stem / f"seed_{seed}"


def write_log(folder: Path, epochs: range, bbox: float, **step: float) -> None:
    """Ten logged iterations an epoch, a validation after each epoch."""
    lines = []
    for epoch in epochs:
        for i in range(10):
            lines.append(dict(loss=2 / epoch, time=0.5, epoch=epoch, iter=10 * epoch + i - 9, **step))
        lines.append({"coco/bbox_mAP": bbox * epoch, "coco/segm_mAP": 2 * bbox * epoch, "time": 0.1, "step": epoch})
    (folder / "vis_data").mkdir(parents=True)
    (folder / "vis_data/scalars.json").write_text("\n".join(map(json.dumps, lines)))


def finish(config: Path, seed: int, folder: Path, **changes: object) -> None:
    settings = families.settings_of(load_config(config), seed)
    record = dict(settings=settings, environment=ENVIRONMENT, resident=2000.0)
    (folder / "run.json").write_text(json.dumps(record | changes))


@pytest.fixture
def trained(tmp_path) -> Path:
    for config in CONFIGS:
        for seed in SEEDS:
            folder = folder_of(tmp_path, config, seed)
            write_log(folder / "20260101_000000", range(1, 9), bbox=0.05 + seed / 100)
            finish(config, seed, folder, resident=2000.0 + seed)
    return tmp_path


def arguments_of(work_dir: Path, *more: str) -> list[str]:
    return [*more, "--seeds", *map(str, SEEDS), "--work-dir", str(work_dir), "--out", str(work_dir / "docs")]


def compare(work_dir: Path, *arguments: str) -> str:
    families.main(arguments_of(work_dir, *arguments))
    return (work_dir / "docs/families.md").read_text()


def test_table_and_image(trained):
    page = compare(trained, "--summary-only")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(CONFIGS) == 10
    assert [row[0] for row in rows[-2:]] == [
        "| PyramidVisionTransformer (MMDetection's, a baseline)",
        "| SwinTransformer (MMDetection's, a baseline)",
    ]
    # The last validations: mean, worst and best of the seeds, and the larger memory.
    assert rows[0][:6] == ["| DWNet", "0.440", "0.400 to 0.480", "0.880", "0.800 to 0.960", "2001"]
    assert "seeds 0, 1" in page
    assert "a machine" in page
    assert "torch 2.x" in page
    assert (trained / "docs/families.png").stat().st_size > 10_000


def test_the_row_of_one_family_joins_the_table(trained, refused):
    """The others stay, whatever was trained of them; as a new family's, the row goes to its place."""
    page = (REPOSITORY / "docs/families.md").read_text(encoding="utf-8")
    [config] = [path for path in CONFIGS if load_config(path).model.backbone.type == "GGTransformer"]
    for path in CONFIGS:
        if path != config:
            (folder_of(trained, path, 0) / "run.json").unlink()
    rows = compare(trained, "--names", "GGTransformer", "--summary-only").splitlines()
    changed = [(old, new) for old, new in zip(page.splitlines(), rows, strict=False) if old != new]
    old, new = changed[0]
    assert old.startswith("| GGTransformer | ")
    assert new.startswith("| GGTransformer | 0.440 | 0.400 to 0.480 | ")
    assert len(rows) == len(page.splitlines()) + 1  # another machine
    assert not (trained / "docs/families.png").exists()
    without = page.replace(f"{old}\n", "")
    runs = [families.read_run(folder_of(trained, config, seed)) for seed in SEEDS]
    made = families.summary({"GGTransformer": runs}, {"GGTransformer": 3_470_000}, without)
    assert made.splitlines()[:12] == [line for line in rows if line.startswith("| ")]
    said = refused(families.main, *arguments_of(trained, "--names", "PoolNet", "--summary-only"))
    assert "--names: no nano config has PoolNet; there are DWNet, " in said


def test_resumed_training_is_one_run(trained):
    folder = folder_of(trained, CONFIGS[0], 0)
    write_log(folder / "20260102_000000", range(5, 9), bbox=0.1, memory=700)
    run = families.read_run(folder)
    assert (run["bbox"], run["segm"]) == (0.8, 1.6)  # the later log holds
    assert run["memory"] == 700  # the GPU's own, where logged


@pytest.mark.parametrize("case", ["missing", "older", "empty"])
def test_mistakes_are_told(trained, refused, case):
    folder = folder_of(trained, CONFIGS[0], 1)
    if case == "missing":
        (folder / "run.json").unlink()
    elif case == "older":
        finish(CONFIGS[0], 1, folder, settings={})
    else:
        (folder / "20260101_000000/vis_data/scalars.json").write_text("")
    said = refused(families.main, *arguments_of(trained, "--summary-only"))
    assert CONFIGS[0].stem in said
    assert said.count("\n") == 1
    assert not (trained / "docs/families.md").exists()


def test_only_unfinished_ones_are_trained(trained, monkeypatch):
    for config, seed in ((CONFIGS[1], 0), (CONFIGS[0], 1)):
        (folder_of(trained, config, seed) / "run.json").unlink()
    begun = []

    def train(config, cfg, seed, work_dir):
        begun.append((config, seed))
        finish(config, seed, work_dir)

    monkeypatch.setattr(families, "train", train)
    compare(trained)
    assert begun == [(CONFIGS[1], 0), (CONFIGS[0], 1)]  # seed by seed


def test_the_budget_reaches_schedule_and_validation():
    cfg = config_module.load_config(CONFIGS[0], families.budget(2))
    warm_up, cosine = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cosine.end, warm_up.end) == (2, 2, 2, 50)


def test_a_failed_training_is_not_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(families.sys, "executable", "false")  # the command that fails, in Python's place
    with pytest.raises(UserError, match=rf"{CONFIGS[0].name} failed"):
        families.train(CONFIGS[0], load_config(CONFIGS[0]), 0, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_unequal_budgets_are_refused():
    configs = {path: load_config(path) for path in CONFIGS[:2]}
    families.check_equal_budgets(configs)
    configs[CONFIGS[1]].train_cfg.max_epochs += 1
    with pytest.raises(ConfigError, match="train_cfg"):
        families.check_equal_budgets(configs)
