"""Settings of a tool's process."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

KEEPS = """
import _process, os
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
block = bytearray(64 << 20)
del block
print(os.environ.get("GOMP_SPINCOUNT"), (resident() - before) >> 20)
"""


def run(**environment: str) -> tuple[str, int]:
    """The spin count, and how many MiB of a freed block of 64 MiB the process keeps."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LOCALVIT_", "GOMP_", "OMP_", "MALLOC_"))}
    environment = {**inherited, "PYTHONPATH": f"{REPOSITORY / 'tools'}{os.pathsep}{REPOSITORY}", **environment}
    command = [sys.executable, "-c", KEEPS]
    spin, kept = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return spin, int(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="settings of Linux")
def test_memory_is_kept_and_threads_give_way():
    assert run() == ("10000", pytest.approx(64, abs=2))


@pytest.mark.skipif(sys.platform != "linux", reason="settings of Linux")
@pytest.mark.parametrize(
    ("environment", "spin", "kept"),
    [
        ({"LOCALVIT_PROCESS": "plain"}, "None", 0),
        ({"OMP_WAIT_POLICY": "active"}, "None", 64),
        ({"GOMP_SPINCOUNT": "7", "MALLOC_ARENA_MAX": "4"}, "7", 0),
    ],
)
def test_environment_comes_first(environment, spin, kept):
    assert run(**environment) == (spin, pytest.approx(kept, abs=2))
