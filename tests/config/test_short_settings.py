"""Short settings: each sets what goes with it, and leaves alone what has been set by its own name."""

from pathlib import Path

import pytest
from conftest import lines_logged_by

from localvit_det.config import load_config, short_settings
from localvit_det.config.load import read_config_file
from localvit_det.config.short_settings import SHORT, SHORTER, expand_short
from localvit_det.errors import ConfigError

SHUFFLE, NANO = "mask_rcnn_shuffle_t_coco", "mask_rcnn_shuffle_nano_shapes"
RTMDET, UPERNET = "rtmdet_ins_shuffle_t_coco", "upernet_shuffle_t_ade20k"


@pytest.fixture(scope="module")
def recipes():
    return {name: read_config_file(Path(name), False) for name in (SHUFFLE, RTMDET, UPERNET)}


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        (SHUFFLE, {"epochs": 24}, {"train_cfg.max_epochs": 24, "param_scheduler.1.end": 24,
                                   "param_scheduler.1.milestones": [16, 22]}),
        # Half of the training at a constant rate, and the last ten epochs without mosaics, each of them validated.
        (RTMDET, {"epochs": 50}, {"train_cfg.max_epochs": 50, "param_scheduler.1.begin": 25,
                                  "param_scheduler.1.end": 50, "param_scheduler.1.T_max": 25,
                                  "custom_hooks.1.switch_epoch": 40,
                                  "train_cfg.dynamic_intervals": [(40, 1)]}),
        (SHUFFLE, {"batch": 4}, {"train_dataloader.batch_size": 4, "auto_scale_lr.enable": True}),
        # A rate that is given is for the batch that it is given with.
        (SHUFFLE, {"batch": 4, "lr": 1e-3}, {"train_dataloader.batch_size": 4, "optim_wrapper.optimizer.lr": 1e-3,
                                             "auto_scale_lr.enable": False}),
        (SHUFFLE, {"lr": 1e-3, "auto_scale_lr.enable": True}, {"optim_wrapper.optimizer.lr": 1e-3,
                                                               "auto_scale_lr.enable": True}),
        # By its own name it means what it means in MMEngine, whatever the config scales; and the batch scales no rate
        # that has been chosen.
        (SHUFFLE, {"optim_wrapper.optimizer.lr": 1e-3}, {"optim_wrapper.optimizer.lr": 1e-3}),
        (SHUFFLE, {"optim_wrapper.optimizer.lr": 1e-3, "batch": 4}, {"train_dataloader.batch_size": 4,
                                                                     "optim_wrapper.optimizer.lr": 1e-3}),
        (SHUFFLE, {"imgsz": "640x480"}, {"image_size": "640x480"}),
        # What is set by its own name stays.
        (SHUFFLE, {"epochs": 24, "param_scheduler.1.milestones": [20]}, {"train_cfg.max_epochs": 24,
                   "param_scheduler.1.end": 24, "param_scheduler.1.milestones": [20]}),
        # Of two values the later one counts, whatever it is called: a run's own options come first.
        (SHUFFLE, {"train_dataloader.batch_size": 2, "batch": 4, "auto_scale_lr.enable": False},
                  {"train_dataloader.batch_size": 4, "auto_scale_lr.enable": False}),
    ],
)  # fmt: skip
def test_what_a_short_setting_stands_for(recipes, recipe, options, expected):
    assert expand_short(recipes[recipe], options) == expected


def test_the_last_rate_of_a_schedule_follows_the_first(recipes):
    cfg = recipes[SHUFFLE].copy()
    cfg.param_scheduler = [{"type": "CosineAnnealingLR", "T_max": 12, "eta_min": 1e-6}]
    assert expand_short(cfg, {"lr": 1e-3})["param_scheduler.0.eta_min"] == pytest.approx(1e-5)


def test_who_turns_the_scaling_of_the_rate_off(tmp_path, monkeypatch):
    """The short setting, and it says so; by its own name MMEngine's meaning stays."""
    lines = lines_logged_by(monkeypatch, short_settings)
    path = tmp_path / "scaled.py"
    path.write_text(f"_base_ = 'localvit_det::{NANO}.py'\nauto_scale_lr = dict(enable=True, base_batch_size=16)\n")
    assert load_config(path, {"optim_wrapper.optimizer.lr": 0.01}, data=False).auto_scale_lr.enable
    assert load_config(path, {"optim_wrapper.optimizer.lr": 0.01, "batch": 2}, data=False).auto_scale_lr.enable
    assert "auto_scale_lr" not in "".join(lines)
    assert not load_config(path, {"lr": 0.01, "batch": 2}, data=False).auto_scale_lr.enable
    assert "lr=0.01: optim_wrapper.optimizer.lr=0.01, auto_scale_lr.enable=False" in lines[-1]
    assert "auto_scale_lr.enable=True" not in lines[-1]


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        (SHUFFLE, {"epochs": 0}, "epochs=0 is no count: give a whole number from 1 on"),
        (SHUFFLE, {"epochs": "many"}, "epochs=many is no count"),
        (SHUFFLE, {"batch": True}, "batch=True is no count"),
        (SHUFFLE, {"workers": -1}, "workers=-1 is no count: give a whole number from 0 on"),
        (SHUFFLE, {"lr": 0}, "lr=0 is no learning rate"),
        (SHUFFLE, {"lr": float("nan")}, "lr=nan is no learning rate"),
        (UPERNET, {"epochs": 3}, r"counts iterations \(160000\): set train_cfg.max_iters"),
    ],
)
def test_values_that_make_no_sense(recipes, recipe, options, words):
    with pytest.raises(ConfigError, match=words):
        expand_short(recipes[recipe], options)


def test_all_of_them_in_a_config():
    options = {"epochs": 3, "batch": 4, "lr": 1e-4, "imgsz": 96, "workers": 0}
    cfg = load_config(NANO, options, data=False)
    loaders = cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader
    assert [(loader.num_workers, loader.persistent_workers) for loader in loaders] == [(0, False)] * 3
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].end, cfg.train_dataloader.batch_size) == (3, 3, 4)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.auto_scale_lr.enable, cfg.image_size) == (1e-4, False, (96, 96))
    assert not SHORT.keys() & cfg.keys()
    assert set(SHORTER.values()) == set(SHORT)
