"""What the processes of one run do together."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.model import is_model_wrapper

_WAIT = 10.0  # seconds that the processes give each other to say that they are alive
_NOTE = "localvit_det/ended/{}"  # in the store of the run, by rank
_ALONE = "lost the others"
_homes: list[tuple[str, int]] = []  # host and number of every process


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


def announce() -> None:
    """Tells the other processes where this one lives, for `explain_loss`."""
    if dist.get_world_size() > 1:
        _homes[:] = dist.all_gather_object((socket.gethostname(), os.getpid()))


def explain_loss(error: BaseException) -> str | None:
    """Which process has ended and left this one alone, None where `error` is this one's own.

    Every process notes in the store of the run why it ends. Those that fail because another one has gone look for
    its note; without one it was killed.
    """
    if dist.get_world_size() == 1:
        return None
    alone = _is_connection_error(error)
    own = _ALONE if alone else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    try:
        _store().set(_NOTE.format(dist.get_rank()), own)
        return _who_has_ended() if alone else None
    except Exception:  # the store lives in a process, too: in the first one's, or torchrun's
        if not alone:
            return None
        gone = [rank for rank in range(dist.get_world_size()) if _is_alive(rank) is False]
        return _ended(gone) if gone else "The process that connects the others has ended"


def _who_has_ended() -> str:
    store, processes = _store(), dist.get_world_size()
    end = time.monotonic() + _WAIT
    while True:
        notes = {
            rank: store.get(_NOTE.format(rank)).decode()
            for rank in range(processes)
            if store.check([_NOTE.format(rank)])
        }
        causes = [f"Process {rank} of {processes} ended with {note}" for rank, note in notes.items() if note != _ALONE]
        if causes:
            return "; ".join(causes)
        silent = [rank for rank in range(processes) if rank not in notes]
        # Others may wait in vain without having noticed; those of another machine count once the time is over.
        late = time.monotonic() > end
        gone = [rank for rank in silent if (alive := _is_alive(rank)) is False or (late and alive is None)]
        if gone:
            return f"{_ended(gone)} without a word (killed, or out of memory)"
        if late or not silent:
            return "The connection between the processes is broken"
        time.sleep(0.1)


def _ended(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"Process {ranks[0]} of {dist.get_world_size()} has ended"
    return f"Processes {', '.join(map(str, ranks))} of {dist.get_world_size()} have ended"


def _is_alive(rank: int) -> bool | None:
    """Whether a process lives, None where that cannot be seen from this machine."""
    host, pid = _homes[rank] if rank < len(_homes) else ("", 0)
    if host != socket.gethostname():
        return None
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")  # a dead process stays until its parent has looked
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


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
