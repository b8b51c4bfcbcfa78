"""Work dirs, checkpoints, processes and room on the disk are checked before a training begins."""

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from preflight_cases import fails

import localvit_det  # noqa: F401
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, ConfigError, OutputError
from localvit_det.preflight import check_config
from localvit_det.preflight.resources import build_on_meta, check_space, checkpoint_bytes


def test_work_dir_that_cannot_be_written(load, tmp_path):
    cfg = load()
    (tmp_path / "file").touch()
    cfg.work_dir = str(tmp_path / "file/run")
    fails(cfg, ConfigError, f"work-dir {tmp_path / 'file/run'}", "--work-dir")
    cfg.work_dir = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    fails(cfg, ConfigError, "not in UTF-8", "--work-dir")


def test_missing_checkpoints(load, tmp_path):
    (tmp_path / "epoch_12.pth").write_bytes(b"\x80")
    cfg = load(load_from=str(tmp_path / "epoch_21.pth"))
    fails(cfg, CheckpointError, "load_from", tmp_path / "epoch_21.pth", "epoch_12.pth", train=False)
    check_config(load(load_from=str(tmp_path / "epoch_12.pth")), train=False)
    fails(load(load_from=str(tmp_path)), CheckpointError, "is a folder")


@pytest.mark.parametrize("kind", ["Pretrained", "mmengine.PretrainedInit"])
def test_missing_pretrained_weights_matter_only_for_training(load, kind):
    init = {"model.backbone.init_cfg": {"type": kind, "checkpoint": "nowhere/r50.pth"}}
    fails(load(**init), CheckpointError, "model.backbone.init_cfg.checkpoint", Path("nowhere/r50.pth").absolute())
    check_config(load(**init), train=False)


@pytest.mark.parametrize(("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")])
def test_launcher_that_started_nothing(load, monkeypatch, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    cfg = load()
    cfg.launcher = launcher
    fails(cfg, ConfigError, f"--launcher {launcher}", variable, "tools/")


@pytest.mark.parametrize(
    ("launcher", "gpus", "words"),
    [("slurm", 0, ["needs GPUs", "tools/dist_train.sh"]), ("pytorch", 2, ["4 processes", "start 2"])],
)
def test_more_processes_than_gpus(load, monkeypatch, launcher, gpus, words):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    cfg = load()
    cfg.launcher = launcher
    fails(cfg, ConfigError, *words)


def test_a_gpu_for_each_process_passes(load, logged, monkeypatch):
    monkeypatch.setenv("RANK", "5")  # on the second machine
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    cfg = load()
    cfg.launcher = "pytorch"
    check_config(cfg)
    assert logged == []


NANO = REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py"


SGD = {"optim_wrapper.optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}}


EMA = {"custom_hooks": [{"type": "EMAHook"}]}


def config(tmp_path, **options):
    cfg = load_config(NANO, options)
    cfg.work_dir = str(tmp_path / "run")
    return cfg


def free(monkeypatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


@pytest.mark.parametrize("options", [{}, SGD, EMA, {"model.backbone.frozen_stages": 4}], ids=str)
def test_estimate_is_the_real_size(options, tmp_path):
    cfg = config(tmp_path, **options)
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    wrapper.optimizer.step()
    copies = 2 if options is EMA else 1
    content = {"optimizer": wrapper.state_dict()}
    content |= {str(i): {k: v.clone() for k, v in model.state_dict().items()} for i in range(copies)}
    file = io.BytesIO()
    torch.save(content, file)
    weights, full = checkpoint_bytes(cfg, cfg.default_hooks.checkpoint, build_on_meta(cfg))
    assert full == pytest.approx(len(file.getvalue()), rel=0.05)
    assert weights < full


def test_too_little_is_refused(load, monkeypatch, tmp_path):
    free(monkeypatch, 50_000_000)
    hook = {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 3}
    schedule = {"train_cfg": {"max_epochs": 12}}
    cfg = load(**{"default_hooks.checkpoint": hook, **schedule})
    fails(cfg, OutputError, "50.0 MB are free at", tmp_path, "4 of", "max_keep_ckpts=1, or give another place")


def test_how_many_there_are(tmp_path, monkeypatch):
    """One file is 43 MB here, the best one 15 MB."""

    def refused(count: int, **options) -> bool:
        free(monkeypatch, count)
        try:
            check_space(config(tmp_path, **options))
        except OutputError:
            return True
        return False

    assert refused(95_000_000)
    assert not refused(105_000_000)  # one, the next one, and the best one
    every = {"default_hooks.checkpoint.max_keep_ckpts": -1}
    assert refused(8 * 43_000_000, **every)
    assert not refused(10 * 43_000_000, **every)
    assert not refused(100_000_000, **every, **{"default_hooks.checkpoint.interval": 8})
    assert refused(130_000_000, **{"default_hooks.checkpoint.every_minutes": 5})


@pytest.mark.parametrize("place", [{"out_dir": "s3://elsewhere"}, {"backend_args": {"backend": "petrel"}}])
def test_checkpoints_elsewhere_are_refused(load, place):
    """`--resume` would find none, and train anew over them."""
    cfg = load(**{"default_hooks.checkpoint": {"type": "CheckpointHook", "interval": 1, **place}})
    fails(cfg, ConfigError, "cannot look for them", "copy the work dir")


def test_work_dir_elsewhere_is_refused(load):
    cfg = load()
    cfg.work_dir = "s3://bucket/run"
    fails(cfg, ConfigError, "s3://bucket/run is no folder of this machine", "--work-dir")


def test_what_a_resumed_training_replaces_counts(tmp_path, monkeypatch):
    cfg = config(tmp_path)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/epoch_1.pth").open("wb") as file:
        file.truncate(43_000_000)
    free(monkeypatch, 70_000_000)
    with pytest.raises(OutputError):
        check_space(cfg)
    cfg.resume = True
    check_space(cfg)
