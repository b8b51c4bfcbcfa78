"""`--epochs`, `--batch`, `--device` and so on, and options that do not exist."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from localvit import __main__ as command
from localvit import process
from localvit.arguments import models, read
from localvit.commands import train as train_command
from localvit_det.cli import check_devices
from localvit_det.config.options import read_options
from localvit_det.config.short_settings import SHORT
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError

NAME = "mask_rcnn_shuffle_nano_shapes"


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")


def test_short_options_are_options_of_the_config():
    given = ["--epochs", "3", "--cfg-options", "imgsz=640x480", "batch=8", "--lr", "1e-4", "--batch", "4"]
    args = read("train", [NAME, *given, "--workers", "0"])
    assert read_options(args.cfg_options, {}) == {
        "epochs": 3, "imgsz": "640x480", "batch": 4, "lr": 1e-4, "workers": 0,
    }  # fmt: skip
    assert models.SHORT_TRAIN.keys() == {*SHORT, "augment"}  # which is the name of its setting, too
    assert read_options(read("train", [NAME, "--augment", "none"]).cfg_options, {}) == {"augment": "none"}


def test_the_batch_of_a_test_is_that_of_its_loader():
    args = read("test", [NAME, "--batch", "4", "--workers", "2"])
    assert read_options(args.cfg_options, {}) == {"test_dataloader.batch_size": 4, "workers": 2}


@pytest.mark.parametrize(("given", "seen"), [("cpu", ""), ("0", "0"), ("cuda:1", "1"), ("0,2", "0,2")])
def test_devices(given, seen):
    args = read("train", [NAME, "--device", given])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    if given == "cpu":
        check_devices(args)
    elif not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=f"--device {given} names GPUs of which PyTorch finds 0"):
            check_devices(args)


@pytest.mark.parametrize("given", ["gpu", "0,0", "0;1", "", "mps"])
def test_devices_that_are_none(given):
    with pytest.raises(ConfigError, match="names no devices: give cpu, or numbers of GPUs"):
        read("train", [NAME, "--device", given])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_several_gpus_get_a_process_each(monkeypatch):
    started = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(process.os, "execv", lambda *call: started.append(call) or sys.exit())
    with pytest.raises(SystemExit):
        command.run("train", [NAME, "--device", "0,1", "--epochs", "1"])
    ((program, argv),) = started
    assert program == argv[0] == sys.executable
    assert argv[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert argv[5:] == ["-m", "localvit", "train", NAME, *["--device", "0,1", "--epochs", "1", "--launcher", "pytorch"]]


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("train", [NAME, "--epocs", "3"], "--epocs 3 (did you mean '--epochs'?)"),
        ("train", [NAME, "--resum"], "--resum (did you mean '--resume'?)"),
        ("train", [NAME, "--cfg-option", "a=1"], "(did you mean '--cfg-options'?)"),
        ("train", [NAME, "epochs=3"], "epochs=3 (settings of the config stand behind --cfg-options)"),
        ("publish", ["x.pth", "--out", "y.pth"], "(did you mean '--out-dir'?)"),
        ("analyze", ["data", NAME, "--image", "3"], "(did you mean '--images'?)"),
        ("predict", ["x.pth", "y.jpg", "--max-frame", "3"], "(did you mean '--max-frames'?)"),
    ],
)
def test_options_go_by_their_whole_names(capsys, name, argv, words):
    with pytest.raises(SystemExit):
        read(name, argv)
    assert capsys.readouterr().err.rstrip().endswith(words)


def test_the_batch_that_fits(monkeypatch):
    """Of 10 GiB 7 are taken: 1 for the rest, and 0.5 for each image."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * 2**30, 2**40))
    monkeypatch.setattr(train_command, "_peak", lambda argv, size: 1 + 0.5 * size)
    assert train_command.fitting_batch([NAME]) == 12
    monkeypatch.setattr(train_command, "_peak", lambda argv, size: 1 + 20 * size)
    assert train_command.fitting_batch([NAME]) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="give a number to a training in several"):
        train_command.fitting_batch([NAME])


@pytest.mark.slow
def test_what_a_batch_takes_is_measured(tmp_path, monkeypatch, capsys):
    def in_this_process(argv, **_) -> SimpleNamespace:
        assert argv[:3] == [sys.executable, "-m", "localvit"]
        command.main(argv[3:])
        return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out)

    monkeypatch.chdir(tmp_path)
    shapes = make_shapes(tmp_path / "shapes", num_train=4, num_val=2, size=64)
    options = ["--workers", "0", "--cfg-options", f"data_root={shapes}"]
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "subprocess", SimpleNamespace(run=in_this_process))
        peak = train_command._peak([NAME, "--batch", "auto", *options], 1)
    assert 0.3 < peak < 16  # what this process has used before counts, too
    with pytest.raises(ConfigError, match=r"a dry run with 1 images fails .*error: .*no_such_config does not exist"):
        train_command._peak(["no_such_config", *options], 1)
