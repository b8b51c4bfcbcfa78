"""What the processes of one run do together."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.model import is_model_wrapper

_WAIT = 10.0  # seconds that the processes give each other to say that they are alive
_NOTE = "localvit_det/ended/{}"


def agree(*numbers: int) -> list[int]:
    """The largest of each number over all processes; they must all ask, at the same point."""
    if dist.get_world_size() == 1:
        return list(numbers)
    together = torch.tensor(numbers)
    dist.all_reduce(together, "max")
    return together.tolist()


def share_buffers(runner: Any) -> None:
    """Gives every process the buffers of the first one, whose checkpoint is what counts.

    Running statistics differ between processes where BatchNorm is not synchronised.
    """
    if dist.get_world_size() > 1:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for buffer in model.buffers():
            dist.broadcast(buffer)


def is_cpu_run() -> bool:
    """Whether the processes of this run compute on CPUs."""
    return get_device() == "cpu"


def start_gloo(timeout: float | None = None) -> None:
    """Connects the processes that torchrun has started on CPUs; MMEngine insists on GPUs.

    Args:
        timeout: Seconds to wait for the others in one step; PyTorch's default otherwise.
    """
    import datetime

    limit = {} if timeout is None else {"timeout": datetime.timedelta(seconds=timeout)}
    torch.distributed.init_process_group("gloo", **limit)


def explain_loss(error: BaseException) -> str | None:
    """Which process has ended and left this one alone, None where `error` is this one's own.

    Every process notes in the store of the run why it ends. Those that fail because another one has gone look for
    its note; without one it was killed.
    """
    if dist.get_world_size() == 1:
        return None
    alone = _is_connection_error(error)
    own = "lost the others" if alone else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        store.set(_NOTE.format(dist.get_rank()), own)
        if not alone:
            return None
        notes = _notes(store)
    except Exception:  # the store lives in a process, too: in the first one's, or torchrun's
        return "The process that connects the others has ended" if alone else None
    missing = [rank for rank in range(dist.get_world_size()) if rank not in notes]
    if missing:
        ranks = ", ".join(map(str, missing))
        return f"Process {ranks} of {dist.get_world_size()} has ended without a word (killed, or out of memory)"
    causes = {rank: note for rank, note in notes.items() if note != "lost the others"}
    if causes:
        return "; ".join(
            f"process {rank} of {dist.get_world_size()} ended with {note}" for rank, note in causes.items()
        )
    return "The connection between the processes is broken"


def _notes(store: Any) -> dict[int, str]:
    """The notes of all processes, as far as they come in time."""
    end = time.monotonic() + _WAIT
    notes: dict[int, str] = {}
    while len(notes) < dist.get_world_size() and time.monotonic() < end:
        for rank in range(dist.get_world_size()):
            key = _NOTE.format(rank)
            if rank not in notes and store.check([key]):
                notes[rank] = store.get(key).decode()
        time.sleep(0.2)
    return notes


def _is_connection_error(error: BaseException) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "ProcessGroup")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def launched_rank() -> int:
    """The number of this process before the processes are connected, as its launcher says."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
