"""The newcomer's hour, in its short form: each command in a process of its own."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_short_form(tmp_path):
    command = [sys.executable, REPOSITORY / "tools/newcomers_hour.py", "shapes", "--short", "--out", tmp_path / "hour"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "LOCALVIT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert "All commands ended well." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    for name in ("check", "train --batch 2", "test", "predict", "export", "check roboflow", "check cvat"):
        assert f"  {name}" in done.stdout
    assert (tmp_path / "hour/dataset_0/detector.pt").stat().st_size > 1e6
