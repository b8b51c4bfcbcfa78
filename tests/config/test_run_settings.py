"""What a run was started with: written, read back, repeated, and compared."""

import copy
import os

import pytest
from conftest import lines_logged_by

from localvit_det.config import load_config, run
from localvit_det.config.run import OF_TESTS, as_table, changes, find_old_run, find_run, remember
from localvit_det.config_names import Typed
from localvit_det.errors import ConfigError

NAME = "mask_rcnn_shuffle_nano_shapes"
OPTIONS = {
    "data_root": Typed("/data/my 'own' set, 2"),
    "classes": Typed("[a b,c]"),
    "train_dataloader.batch_size": Typed("4"),
    "param_scheduler.1.milestones": [3, 5],
    "draw": True,
    "load_from": Typed("detector.pth"),
    "work_dir": Typed("elsewhere"),
}


@pytest.fixture(scope="module")
def nano():
    return load_config(NAME)


@pytest.fixture
def started(nano, tmp_path):
    """A run in `tmp_path`, whose config has the classes a and b."""
    cfg = copy.deepcopy(nano)
    cfg.work_dir, cfg.classes = str(tmp_path), ("a b", "c")
    remember(cfg, NAME, OPTIONS, {"ema": 0.01, "amp": True, "seed": None})
    cfg.dump(tmp_path / f"{NAME}.py")
    return find_run(tmp_path)


def test_written_and_read_back(started, tmp_path):
    assert started.source == tmp_path / f"{NAME}.py"
    assert started.file == NAME
    assert started.options == OPTIONS
    assert all(type(value) is type(OPTIONS[key]) for key, value in started.options.items())
    assert started.switches == {"ema": 0.01, "amp": True}
    os.utime(tmp_path / f"{NAME}.py", (1, 1))
    (tmp_path / "notes.py").write_text("import os\n")  # newer, and no config
    (tmp_path / "child.py").write_text("_base_ = 'x.py'\nmodel = dict()\n")
    assert find_run(tmp_path).options == OPTIONS


def test_given_options_count_over_the_runs(started, monkeypatch):
    lines = lines_logged_by(monkeypatch, run)
    found = started.over({"train_dataloader.batch_size": 8})
    assert found["train_dataloader.batch_size"] == 8
    assert found["classes"] == "[a b,c]"
    assert found["data_root"] == OPTIONS["data_root"]
    assert not {"load_from", "work_dir"} & found.keys()
    assert "data_root=/data/my 'own' set, 2 draw=True" in lines[0]
    assert "batch_size" not in lines[0]
    # Other data may have other classes, which 'auto' would take.
    assert started.over({"data_root": "other"})["classes"] == ["a b", "c"]
    assert started.over({"data_root": "other", "classes": "auto"})["classes"] == "auto"


def test_what_a_second_start_changes_is_remembered(started, nano):
    cfg = copy.deepcopy(nano)
    cfg.work_dir = "x"
    remember(cfg, NAME, {"train_dataloader.batch_size": Typed("8")}, {"ema": None}, started)
    assert dict(cfg.started_with["options"])["train_dataloader.batch_size"] == "8"
    assert dict(cfg.started_with["options"])["data_root"] == OPTIONS["data_root"]
    assert cfg.started_with["switches"] == {}


def test_a_run_of_an_earlier_version_is_compared(nano, tmp_path):
    """Its data would be exchanged for synthetic shapes where they are not named again."""
    cfg = copy.deepcopy(nano)
    cfg.train_dataloader.dataset.data_root = "mine/"
    cfg.dump(tmp_path / f"{NAME}.py")
    assert find_run(tmp_path) is None
    old = find_old_run(tmp_path)
    with pytest.raises(ConfigError, match=r"differs from that of the run \([^,]*\) in data: train_dataloader.*mine/"):
        old.check(nano, [])
    old.check(nano, ["data_root"])
    assert find_old_run(tmp_path / "none") is None


DIFFERENCES = {
    "data": ("train_dataloader.dataset.data_root", "x/", ["data_root=", "train_dataloader.dataset="]),
    "classes": ("model.roi_head.bbox_head.num_classes", 7, ["classes=", "model.roi_head="]),
    "architecture": ("model.neck.out_channels", 32, ["model.neck.out_channels=", "model="]),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_differences_that_have_to_be_named(kind, started, nano):
    key, value, names = DIFFERENCES[kind]
    cfg = copy.deepcopy(nano)
    cfg.classes = ["a b", "c"]
    started.check(cfg, [])
    cfg.merge_from_dict({key: value})
    with pytest.raises(ConfigError, match=rf"differs .* in {kind}: {key} was .* and is {value}; give the config of"):
        started.check(cfg, ["optim_wrapper.optimizer.lr", "train_dataloader.batch_size"])
    for name in names:
        started.check(cfg, [name.removesuffix("=")])


def test_differences_of_a_test_are_shown(started, nano, monkeypatch):
    lines = lines_logged_by(monkeypatch, run)
    cfg = copy.deepcopy(nano)
    cfg.merge_from_dict(
        {
            "test_dataloader.batch_size": 3,
            "model.backbone.frozen_stages": 2,
            "train_cfg.max_epochs": 99,
            "model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "x.pth"},
        }
    )
    started.check(cfg, [], OF_TESTS)
    assert [cell.strip() for cell in lines[0].splitlines()[2].split("|")][0::2] == ["test_dataloader.batch_size", "3"]
    assert len(lines[0].splitlines()) == 3


def test_changes():
    was = {"a": {"b": (1, 2), "c": [{"d": 1}]}, "work_dir": "x", "test_cfg": 1, "e": None, "g": []}
    assert changes(was, copy.deepcopy(was)) == {}
    now = {"a": {"b": [1, 2], "c": [{"d": 2}, {"d": 3}]}, "work_dir": "y", "test_cfg": 2, "e": {}, "f": 0.5}
    assert changes(was, now) == {"a.c.0.d": (1, 2), "a.c.1.d": (None, 3), "f": (None, 0.5)}
    assert changes(was, {**was, "augmentation": {"flips": []}}) == {}  # pipelines have what was taken from it
    lines = as_table({"a": (None, "x" * 99)}, ("applied", {"a": "yes"})).splitlines()
    assert [cell.strip() for cell in lines[1].split("|")] == ["a", "-", "x" * 59 + "…", "yes"]
