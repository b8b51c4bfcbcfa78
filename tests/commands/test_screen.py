"""What a user sees of a training and of a test."""

import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from localvit.commands import test as test_command
from localvit.process import ignore_warnings
from localvit_det.datasets.synthetic_shapes import make_shapes

NAME = "mask_rcnn_shuffle_nano_shapes"
TABLE = r"(  +AP +AP50 +AP75 +APs +APm +APl\n)(bbox .*\n)(segm .*\n)"


# One process, as it imports for seconds; stdout and stderr are one screen.
RUN = """
import json, sys
from localvit.__main__ import main
for argv in json.loads(sys.argv[1]):
    main(argv)
    print("=next=", flush=True)
assert "localvit_det.predict" not in sys.modules  # which the package imports late, where it is asked for
"""


@pytest.mark.slow
def test_training_and_test(tmp_path, capfd):
    data = ["--cfg-options", f"data_root={make_shapes(tmp_path / 'shapes', num_train=8, num_val=2, size=96)}"]
    work_dir = tmp_path / "run"
    test = [NAME, f"{work_dir}/epoch_1.pth", "--work-dir", f"{tmp_path}/test", "--workers", "0"]
    train = ["train", NAME, "--epochs", "1", "--batch", "2", "--workers", "0", "--work-dir", f"{work_dir}"]
    commands = json.dumps([[*train, *data], ["test", *test, *data, "visualizer.name=another"]])
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-c", RUN, commands], cwd=REPOSITORY, check=False, **streams)
    assert done.returncode == 0, done.stdout
    training, testing, _ = done.stdout.split("=next=\n")
    assert len(training.splitlines()) <= 25, training
    assert re.search(rf"COCO results.*\n{TABLE}.*Saved:\n(  \w.*\n)+$", training), training
    (log,) = work_dir.glob("*/*.log")
    assert log.read_text().count(" Average Precision ") == 12
    assert len(testing.splitlines()) <= 20, testing
    assert re.search(rf"COCO results \(test\):\n{TABLE}$", testing), testing
    assert "Warning" not in training + testing
    test_command.main([*test, "--verbose", *data])
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
