"""Free memory goes back to the system, and not too often."""

import ctypes
import os
import sys
from pathlib import Path

import pytest
from toy_training import toy_runner

from localvit_det.engine import hooks
from localvit_det.engine.hooks import FreeMemoryHook


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux can do it")
def test_holes_go_back(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path)
    hook = next(hook for hook in runner.hooks if isinstance(hook, FreeMemoryHook))
    if hook._trim is None:
        pytest.skip("the C library cannot do it")
    blocks = [ctypes.create_string_buffer(64 << 10) for _ in range(2000)]
    last = blocks.pop()
    del blocks
    before = resident()
    hook.after_train_iter(runner, 0)
    assert before - resident() < 50_000_000  # not yet
    monkeypatch.setattr(hooks, "_PAUSE", 0.0)
    hook.after_train_iter(runner, 0)
    assert before - resident() > 50_000_000
    assert len(last) == 64 << 10
