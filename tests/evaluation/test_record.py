"""What the record of an evaluation says of the machine."""

import sys
from pathlib import Path

import pytest

from localvit_det.evaluation import record


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_the_peak_of_the_process():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    assert record.peak_memory() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)


def test_memory_on_other_systems(monkeypatch):
    here = record.peak_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    assert record.peak_memory() is None
    monkeypatch.setattr(sys, "platform", "darwin")  # in bytes there
    assert record.peak_memory() == pytest.approx(here / 1024, rel=0.05)
