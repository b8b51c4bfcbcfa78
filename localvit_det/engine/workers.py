"""Data loader workers that end with their process, and leave signals to it."""

import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from ..errors import first_line

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_FOR_THE_PARENT = ("SIGINT", "SIGHUP", "SIGUSR1")
_REMEDY = (
    "The system ends processes that take too much memory: set train_dataloader.num_workers or batch_size lower, or "
    "allow the job more memory (and more /dev/shm, in a container: --shm-size)"
)


def guard_workers(loader: DataLoader) -> DataLoader:
    """Let the workers of a loader begin with `WorkerGuard`, and their loss be seen between two batches only."""
    # PyTorch's handler of SIGCHLD raises wherever the main process happens to be, in the middle of an optimizer's step
    # as well. Without it the loader itself notices within 5 seconds, when it waits for the next batch.
    signal_handling._SIGCHLD_handler_set = True
    if loader.num_workers and not isinstance(loader.worker_init_fn, WorkerGuard):
        loader.worker_init_fn = WorkerGuard(loader.worker_init_fn)
    return loader


def close_workers(loader: DataLoader, iterator: object = None) -> None:
    """End workers now, not when Python's garbage collector comes by; the next pass starts new ones.

    Args:
        loader: Its persistent workers end.
        iterator: One of the loader, where the workers live only as long as that.
    """
    iterator = iterator or getattr(loader, "_iterator", None)
    if iterator is not None:
        loader._iterator = None
        iterator._shutdown_workers()


def explain_lost_workers(iterator: object, error: Exception) -> str | None:
    """Return why a loader has no next batch, None if all of its workers live.

    Args:
        iterator: The loader's, whose `next` has raised.
        error: What it has raised.
    """
    workers = {worker.sentinel: worker for worker in getattr(iterator, "_workers", ())}
    # A process that ends closes its connections first, and is gone a moment later.
    broken = isinstance(error, (OSError, EOFError))
    for sentinel in multiprocessing.connection.wait(list(workers), timeout=1 if broken and workers else 0):
        workers[sentinel].join(1)
    codes = sorted({worker.exitcode for worker in workers.values() if not worker.is_alive()})
    if not codes:
        return None
    how = [f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" for code in codes]
    return f"A data worker has ended ({', '.join(how)}). {_REMEDY}"


def lost_in_evaluation(error: BaseException) -> str | None:
    """Return why a validation or test ended, None if no data worker was lost; PyTorch's message is all there is."""
    lost = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    return f"A data worker has ended ({first_line(error)}). {_REMEDY}" if lost else None


class WorkerGuard:
    """First thing that a worker does.

    PyTorch's own watch over the parent comes too late where a worker waits for a full pipe: such a worker outlives a
    killed training. And a signal to all processes of a job (Ctrl-C, SLURM, a shutdown) must not end the workers
    before the training has finished its iteration.

    Args:
        then: The `worker_init_fn` that the loader had.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then
        self.parent = os.getpid()

    def __call__(self, worker_id: int) -> None:
        end_with_parent(self.parent)
        leave_signals_to_parent(self.parent)
        # Python drops a batch that cannot be handed over (no room in /dev/shm), and the training would wait forever.
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)
        if self.then is not None:
            self.then(worker_id)


def _end_worker(error: Exception, batch: object) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"A data worker cannot hand over a batch: {first_line(error)}\n".encode())
    os._exit(os.EX_IOERR)


def end_with_parent(parent: int) -> None:
    """Lets this process be killed when its parent ends, however that ends."""
    if multiprocessing.get_start_method(allow_none=True) == "forkserver":
        return  # the parent is the server, which ends by itself
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    elif hasattr(os, "getppid"):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def leave_signals_to_parent(parent: int) -> None:
    """Ignores what is sent to all processes of a job; SIGTERM counts where it comes from the parent."""
    for name in _FOR_THE_PARENT:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_sigterm, args=(parent,), daemon=True).start()


def _wait_for_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
