"""What a user sees of a training and of a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from localvit.commands import test
from localvit.process import ignore_warnings
from localvit_det.datasets.synthetic_shapes import make_shapes

NAME = "mask_rcnn_shuffle_nano_shapes"
TABLE = r"(  +AP +AP50 +AP75 +APs +APm +APl\n)(bbox .*\n)(segm .*\n)"


def localvit(folder: Path, *arguments: object) -> str:
    """The screen; stdout and stderr together."""
    done = subprocess.run(
        [sys.executable, "-m", "localvit", *map(str, arguments), "--cfg-options", f"data_root={folder / 'shapes'}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_training_and_test(tmp_path, capfd):
    make_shapes(tmp_path / "shapes", num_train=8, num_val=2, size=96)
    work_dir = tmp_path / "run"
    screen = localvit(tmp_path, "train", NAME, "--epochs", 1, "--batch", 2, "--workers", 0, "--work-dir", work_dir)
    assert len(screen.splitlines()) <= 25, screen
    assert re.search(rf"COCO results.*\n{TABLE}.*Saved:\n(  \w.*\n)+$", screen), screen
    (log,) = work_dir.glob("*/*.log")
    assert log.read_text().count(" Average Precision ") == 12
    assert "Warning" not in screen

    screen = localvit(tmp_path, "test", NAME, work_dir / "epoch_1.pth", "--work-dir", tmp_path / "test")
    assert len(screen.splitlines()) <= 20, screen
    assert re.search(rf"COCO results \(test\):\n{TABLE}$", screen), screen
    assert "Warning" not in screen
    arguments = [NAME, str(work_dir / "epoch_1.pth"), "--work-dir", str(tmp_path / "test"), "--verbose"]
    test.main([*arguments, "--cfg-options", f"data_root={tmp_path / 'shapes'}"])
    assert " Average Precision " in capfd.readouterr().out


def test_old_ways_of_mmdetection_are_not_told(recwarn):
    torch.set_warn_always(True)
    try:
        ignore_warnings()
        torch.meshgrid(torch.arange(2), torch.arange(2))
        torch.cuda.amp.autocast(enabled=False)
    finally:
        torch.set_warn_always(False)
    assert [str(one.message) for one in recwarn if "meshgrid" in str(one.message) or "amp" in str(one.message)] == []
