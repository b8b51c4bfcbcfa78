"""Memory that nobody uses goes back to the system now and then."""

from __future__ import annotations

import ctypes
import os
import sys
import time

from mmengine.hooks import Hook
from mmengine.runner import Runner

_FIRST = 30.0  # seconds of training before the first time
_LEAST = 30.0  # seconds from one time to the next
_SPEED = 2.5e9  # bytes that the system clears and maps in a second, when they are needed again
_SHARE = 1 / 300  # of the training's time that this may cost


class FreeMemoryHook(Hook):
    """Hands free memory of C's allocator back to the system, as often as that costs nearly nothing.

    Sizes of blocks vary with the objects in the images, so the holes between them grow for hundreds of iterations, to
    a multiple of what is in use. Only glibc on Linux can hand them back; elsewhere this does nothing.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(libc, "malloc_trim", None)
        self._next = time.monotonic() + _FIRST

    def before_train(self, runner: Runner) -> None:
        """Lets the time begin."""
        self._next = time.monotonic() + _FIRST

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Hands memory back where it is time."""
        if self._trim is None or time.monotonic() < self._next:
            return
        before = _resident()
        self._trim(0)
        freed = max(0, before - _resident())
        self._next = time.monotonic() + max(_LEAST, freed / _SPEED / _SHARE)
        runner.logger.debug("Handed %.0f MB of free memory back to the system.", freed / 1e6)


def _resident() -> int:
    """Resident bytes of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
