"""Settings of a process that must stand before PyTorch starts.

LOCALVIT_PROCESS=plain in the environment leaves everything as it is.
"""

import ctypes
import os
import sys
import warnings

# At the end of every parallel region PyTorch's threads wait for each other. GNU OpenMP lets them spin for that, by
# default for milliseconds: where cores are shared, often on the very core that the awaited thread needs. With one other
# busy process on two cores a network then took five times as long instead of one and a half times.
_SPIN_COUNT = "10000"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of mallopt(3)
_LARGEST = 2**31 - 1


def share_cores() -> None:
    """Let threads that wait give way soon, unless the environment says how they wait."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def keep_memory() -> None:
    """Let the process keep freed memory, unless the environment configures the allocator.

    By default C's allocator returns large blocks to Linux as soon as they are freed, and Linux clears every page of
    the next one. Data workers inherit the setting. It costs what lies between freed blocks.
    """
    configured = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if configured or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def announce(command: str) -> None:
    """Says that something is going on: importing all that a training needs takes seconds, on busy machines a minute."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        sys.stderr.write(f"localvit {command}: importing PyTorch and MMDetection\n")
        sys.stderr.flush()


def set_up() -> None:
    """Applies all settings, unless the environment says to leave the process alone."""
    # MMEngine's matter, which no user can mend; it comes dozens of times.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    if os.environ.get("LOCALVIT_PROCESS") != "plain":
        share_cores()
        keep_memory()
