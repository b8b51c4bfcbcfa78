"""Data loaders of a training: batches from any place on, and workers that end with their process.

What a training draws depends on the run's seed, the epoch, and the place of an image in the epoch's order: not on
which worker loads it, how many there are, or whether the training was ever stopped. Skipping what a resumed training
has seen loads nothing. MMEngine seeds workers instead, and resumes in the middle of an epoch by loading all before it.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import signal_handling

from ..errors import first_line

_IMAGES, _ITERATIONS = 0, 1  # two rows of random numbers that never meet
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_FOR_THE_PARENT = ("SIGINT", "SIGHUP", "SIGUSR1")
_REMEDY = (
    "The system ends processes that take too much memory: set train_dataloader.num_workers or batch_size lower, or "
    "allow the job more memory (and more /dev/shm, in a container: --shm-size)"
)


def seed_iteration(seed: int, iteration: int) -> None:
    """Seed all generators of this process for one iteration; processes of one run differ."""
    seed_generators(seed, _ITERATIONS, iteration, dist.get_rank())


def seed_generators(*key: int) -> None:
    # A hash of all numbers, so that keys next to each other have nothing in common.
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=16).digest()
    first, second, value = struct.unpack("<IIQ", digest)
    random.seed(first)
    np.random.seed(second)
    # torch.manual_seed also prepares GPUs that are not used, which costs more than all the rest.
    torch.default_generator.manual_seed(value)
    if get_worker_info() is None and get_device() != "cpu":
        torch.manual_seed(value)


class SeededBatch(list):
    """Indices of a batch, with the keys of the random numbers of its images."""

    keys: list[tuple[int, ...]]


class SeededFetch:
    """Load a batch image by image, each with random numbers of its own.

    It stands as `__getitems__` in a dataset, where data loaders look for it in any process.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, batch: list) -> list:
        keys = getattr(batch, "keys", None)
        if keys is None:  # a loader without our sampler
            return [self.dataset[index] for index in batch]
        whole = getattr(type(self.dataset), "__getitems__", None)
        if whole is not None:
            seed_generators(*keys[0])
            return whole(self.dataset, list(batch))
        items = []
        for index, key in zip(batch, keys, strict=True):
            seed_generators(*key)
            items.append(self.dataset[index])
        return items


class ResumableBatchSampler:
    """Yield another batch sampler's batches, whose order may depend on nothing but seed and epoch, from any one on."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._seed = self._epoch = self._skipped = 0

    def seek(self, seed: int, epoch: int, batches: int) -> None:
        """Let the next pass be that of `epoch`, without its first `batches` batches."""
        self._seed, self._epoch, self._skipped = seed, epoch, batches
        sampler = self.inner.sampler
        if hasattr(sampler, "seed"):  # it was built before a checkpoint brought the run's seed
            sampler.seed = seed
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()  # else it continues where it was
        if hasattr(self.inner, "_aspect_ratio_buckets"):
            self.inner._aspect_ratio_buckets = [[], []]  # leftovers of a pass that was not finished

    def __iter__(self) -> Iterator[SeededBatch]:
        skipped, self._skipped = self._skipped, 0
        rank, processes = dist.get_dist_info()
        drawn = 0
        for number, indices in enumerate(self.inner):
            if number >= skipped:
                batch = SeededBatch(indices)
                # The place in the order of all processes together: their number changes nothing.
                places = ((drawn + slot) * processes + rank for slot in range(len(indices)))
                batch.keys = [(self._seed, _IMAGES, self._epoch, place) for place in places]
                yield batch
            drawn += len(indices)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not there yet while being unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)


def batch_size_of(loader: DataLoader) -> int:
    """Return the batch size of a process; with a batch sampler (MMDetection's default) a loader's own is None."""
    return getattr(loader.batch_sampler, "batch_size", loader.batch_size) or 1


def make_resumable(loader: DataLoader) -> ResumableBatchSampler | None:
    """Let a loader yield its batches from where `seek` of the result says; doing so again changes nothing.

    The result is None for a loader without batches of indices, whose data cannot be skipped unread.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    sampler: Any = loader.batch_sampler
    if not isinstance(sampler, ResumableBatchSampler):
        sampler = ResumableBatchSampler(sampler)
        # A loader refuses a new batch sampler, since its other settings might not agree; here they do.
        object.__setattr__(loader, "batch_sampler", sampler)
        # PyTorch's fetcher asks for this method, which its `Dataset` does not declare.
        loader.dataset.__getitems__ = SeededFetch(loader.dataset)  # type: ignore[attr-defined]
    return sampler


# ---- workers


def guard_workers(loader: DataLoader) -> DataLoader:
    """Let the workers of a loader begin with `WorkerGuard`, and their loss be seen between two batches only."""
    # PyTorch's handler of SIGCHLD raises wherever the main process happens to be, in the middle of an optimizer's step
    # as well. Without it the loader itself notices within 5 seconds, when it waits for the next batch.
    signal_handling._SIGCHLD_handler_set = True
    if loader.num_workers and not isinstance(loader.worker_init_fn, WorkerGuard):
        loader.worker_init_fn = WorkerGuard(loader.worker_init_fn)
    return loader


def close_workers(loader: DataLoader, iterator: Any = None) -> None:
    """End workers, of the loader or of this iterator, now and not when Python's garbage collector comes by."""
    iterator = iterator or getattr(loader, "_iterator", None)
    if iterator is not None:
        loader._iterator = None
        iterator._shutdown_workers()


def explain_lost_workers(iterator: Any, error: Exception) -> str | None:
    """Return why a loader's iterator has raised an error instead of a batch, None if all of its workers live."""
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


def explain_lost_evaluation(error: BaseException) -> str | None:
    """Return why a validation or test ended, None if no data worker was lost; PyTorch's message is all there is."""
    lost = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    return f"A data worker has ended ({first_line(error)}). {_REMEDY}" if lost else None


class WorkerGuard:
    """Prepare a worker, before anything else does.

    PyTorch's own watch over the parent comes too late where a worker waits for a full pipe: such a worker outlives a
    killed training. And a signal to all processes of a job (Ctrl-C, SLURM, a shutdown) must not end the workers
    before the training has finished its iteration.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then  # the `worker_init_fn` that the loader had
        self.parent = os.getpid()

    def __call__(self, worker_id: int) -> None:
        # The garbage collector writes into every object that it looks at, which copies the memory of the parent.
        gc.freeze()
        end_with_parent(self.parent)
        leave_signals_to_parent(self.parent)
        # Python drops a batch that cannot be handed over (no room in /dev/shm), and the training would wait forever.
        # Its hook for that case is private, so that no types declare it.
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
        if self.then is not None:
            self.then(worker_id)


def _end_worker(error: Exception, batch: object) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"A data worker cannot hand over a batch: {first_line(error)}\n".encode())
    os._exit(os.EX_IOERR)


def end_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends, however that ends."""
    if multiprocessing.get_start_method(allow_none=True) == "forkserver":
        return  # the parent is the server, which ends by itself
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def leave_signals_to_parent(parent: int) -> None:
    """Ignore what is sent to all processes of a job; SIGTERM counts where it comes from the parent."""
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
