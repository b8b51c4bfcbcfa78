"""Signals that ask a training to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")
# torchrun answers Ctrl-C, which its processes have seen too, with a SIGTERM to each of them.
_SAME_REQUEST = 5.0  # seconds


class Stopped(SystemExit):
    """The training has saved what it has and ends, with 128 + the number of the signal as exit code.

    So do programs that die of a signal, as far as shells, SLURM, Kubernetes and torchrun see it: none of them takes
    the training for finished.
    """


class SignalWatch:
    """While it is entered, the first signal is noted, and the second one ends the process at once.

    Signals that were ignored before (SIGHUP under nohup) stay so. Outside of the main thread nothing is watched.
    """

    def __init__(self) -> None:
        self.received: int = 0  # the signal's number, 0 for none
        self._at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalWatch:
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._at = number, now
            # Not the logger: the signal may have come in the middle of one of its lines.
            name = signal.Signals(number).name
            notice = f"{name}: stopping after this iteration; a second signal ends at once.\n"
            with suppress(OSError):  # SIGHUP comes when the terminal has gone
                os.write(2, notice.encode())
        elif "TORCHELASTIC_RUN_ID" not in os.environ or now - self._at > _SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
