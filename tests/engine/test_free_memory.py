"""Free memory goes back to the system, and not too often."""

import ctypes
import itertools
import sys

import pytest
from toy_training import toy_runner

from localvit_det.engine import free_memory
from localvit_det.engine.free_memory import FreeMemoryHook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux can do it")


def test_holes_go_back(tmp_path):
    hook = FreeMemoryHook()
    if hook._trim is None:
        pytest.skip("the C library cannot do it")
    blocks = [ctypes.create_string_buffer(64 << 10) for _ in range(2000)]
    last = blocks.pop()
    del blocks
    before = free_memory._resident()
    hook._next = 0.0
    hook.after_train_iter(toy_runner(tmp_path), 0)
    assert before - free_memory._resident() > 50_000_000
    assert len(last) == 64 << 10


@pytest.mark.parametrize(("freed", "pause"), [(0, 30), (2_500_000_000, 300)])
def test_how_often(freed, pause, tmp_path, monkeypatch):
    """Every 30 seconds at most; where much comes back, and has to be cleared again, more rarely."""
    now, resident, times = [1000.0], [4_000_000_000], []
    monkeypatch.setattr(free_memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(free_memory, "_resident", lambda: resident[0])
    hook, runner = FreeMemoryHook(), toy_runner(tmp_path)

    def trim(keep: int) -> None:
        times.append(now[0])
        resident[0] -= freed

    hook._trim = trim
    hook.before_train(runner)
    for second in range(700):
        now[0] = 1000.0 + second
        resident[0] = 4_000_000_000
        hook.after_train_iter(runner, 0)
    assert times[0] == 1030
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {pause}


def test_every_training_has_it(tmp_path):
    assert any(isinstance(hook, FreeMemoryHook) for hook in toy_runner(tmp_path).hooks)
