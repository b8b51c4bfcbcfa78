"""Runs a function in a process of its own without importing everything again."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from reliability.training import children, is_alive  # noqa: F401 - for tests


class Forked:
    """A forked process, the first of a group of its own; its output goes to a file.

    Threads of OpenMP do not survive a fork: see the fixture below.
    """

    started: ClassVar[list["Forked"]] = []

    def __init__(self, function: Callable[[], object], output: Path) -> None:
        self.output, self.code = output, None
        self.started.append(self)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
            code = 0
            try:
                function()
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                traceback.print_exc()
                code = 99
            os._exit(code)

    def wait(self, seconds: float = 30) -> int:
        """The exit code, or minus the signal; fails the test where the process does not end in time."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s:\n{self.text()[-3000:]}")
            else:
                time.sleep(0.02)
        return self.code

    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text() if self.output.exists() else ""


def wait_for(condition: Callable[[], object], seconds: float = 20) -> object:
    """Waits until a condition holds and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def forked_ranks(function: Callable[[int], object], folder: Path, processes: int = 2) -> list[Forked]:
    """Starts the processes of a distributed run on CPUs, as torchrun does; `function` gets its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> None:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        function(rank)

    folder.mkdir(parents=True, exist_ok=True)
    return [Forked(partial(start, rank), folder / f"rank{rank}.txt") for rank in range(processes)]


@pytest.fixture(autouse=True, scope="module")  # also for what a module's other fixtures train
def _one_thread_and_no_process_left() -> Iterator[None]:
    """For modules that fork and import this: they run on one thread, and end what they have started.

    Signals that whoever started the tests ignores (nohup, a job in the background) count in them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    ignored = [number for number in defaults if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, defaults[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(before)
    while Forked.started:
        process = Forked.started.pop()
        if process.code is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
