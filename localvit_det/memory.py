"""How much memory a process may take, and giving back what it has freed."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEGABYTE = 1 << 20
_LIMIT_OF_1 = "memory.limit_in_bytes"  # version 1


def memory_limit() -> float:
    """Return the bytes that this machine, its container or the job allows; infinity where none says it."""
    return min([float("inf"), *_limits()])


def memory_left() -> float:
    """Return the bytes of `memory_limit` that this process has not taken."""
    used = 0
    with contextlib.suppress(OSError, ValueError, IndexError):  # another system than Linux
        used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return memory_limit() - used


def _limits() -> Iterator[float]:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers in ("", "memory"):  # of version 2, and of version 1
                root, name = (_CGROUPS, "memory.max") if not controllers else (_CGROUPS / "memory", _LIMIT_OF_1)
                folder = root / place.lstrip("/")
                for one in (folder, *folder.parents):  # each holds for all below it; a container sees its own as root
                    if one == root.parent:
                        break
                    with contextlib.suppress(OSError, ValueError):  # "max"
                        yield int((one / name).read_text())
    with contextlib.suppress(KeyError, ValueError):
        yield int(os.environ["SLURM_MEM_PER_NODE"]) * _MEGABYTE or float("inf")  # 0 is all of it
    with contextlib.suppress(KeyError, ValueError):
        cores = int(os.environ.get("SLURM_CPUS_ON_NODE") or 1)
        yield int(os.environ["SLURM_MEM_PER_CPU"]) * cores * _MEGABYTE or float("inf")


def give_back_memory() -> None:
    """Give what is freed back to the system; without it glibc keeps it, and data workers inherit it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def without_collecting_old() -> Iterator[None]:
    """Leave what there is already out of garbage collection, unless someone else has left out anything before.

    A full collection looks at everything that was imported: with MMDetection 0.3 s, in the middle of an iteration.
    """
    unused = not gc.get_freeze_count()
    if unused:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if unused:
            gc.unfreeze()
