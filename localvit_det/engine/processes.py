"""This process among others: signals that stop it, the lock of its work dir, its memory, and the others of a run.

MMEngine leaves all three to the launcher: a signal would end a training without a checkpoint, two trainings could write
into one work dir, and a process whose partner is killed would end with a traceback of gloo or NCCL.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from ..errors import ProcessError
from ..evaluation.metrics import exact_metrics

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")
LOCK = ".lock"
# torchrun answers Ctrl-C, which its processes have seen too, with a SIGTERM to each of them.
_SAME_REQUEST = 5.0  # seconds
_SILENCE = 20  # seconds of a connection after which its other end is lost
_WAIT = 10.0  # seconds that the processes give each other to say that they are alive
_NOTE = "localvit_det/ended/{}"  # in the store of the run, by rank
_ALONE = "lost the others"
_PAUSE = 120.0  # seconds from one return of free memory to the next
_locks: dict[str, int] = {}  # file: its handle, open as long as the lock is wanted
_addresses: list[tuple[str, int]] = []  # host and number of every process


class Stopped(SystemExit):
    """The training has saved what it has and ends, with 128 + the number of the signal as exit code.

    So do programs that die of a signal, as far as shells, SLURM, Kubernetes and torchrun see it: none of them takes
    the training for finished.
    """


class SignalWatch:
    """Note the first signal, as a context, and let the second one end the process at once.

    Signals that were ignored before (SIGHUP under nohup) stay so. Outside of the main thread nothing is watched.
    """

    def __init__(self) -> None:
        self.received: int = 0  # the signal's number, 0 for none
        self._at = 0.0
        self._before: dict[int, Any] = {}  # handlers

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


def lock_work_dir(folder: str | os.PathLike) -> None:
    """Take the lock of a work dir for this process; taking it again changes nothing.

    The system gives it back when the process ends, however it ends. Processes that this one starts do not have it.

    Raises:
        ProcessError: A living process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = Path(folder).absolute() / LOCK
    if str(path) in _locks:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # the checks before a run say why nothing can be written there
        return
    try:
        # Not flock: data workers would inherit it, and could outlive the training with it.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise ProcessError(
            f"The work dir {Path(folder).absolute()} is in use by {owner}: wait for it to end, or give another one "
            "with --work-dir."
        ) from None
    except OSError:  # a file system without locks: as before
        os.close(handle)
        return
    os.ftruncate(handle, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode())
    _locks[str(path)] = handle


def unlock_work_dir(folder: str | os.PathLike) -> None:
    """Give the lock back, if this process has it."""
    path = Path(folder).absolute() / LOCK
    handle = _locks.pop(str(path), None)
    if handle is not None:
        os.close(handle)  # the file stays: another process may be about to lock it


class FreeMemoryHook(Hook):
    """Hand free memory of glibc's allocator back to the system every two minutes.

    Sizes of blocks vary with the objects in the images, so the holes between them grow for hundreds of iterations, to
    a multiple of what is in use. MMEngine's EmptyCacheHook does this for GPUs; elsewhere than on Linux nothing is done.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(libc, "malloc_trim", None)
        self._trimmed_at = time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self._trim is not None and time.monotonic() - self._trimmed_at > _PAUSE:
            self._trim(0)
            self._trimmed_at = time.monotonic()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrapper for several processes, if there is one."""
    return model.get_submodule("module") if is_model_wrapper(model) else model


def all_reduce_max(*numbers: int) -> list[int]:
    """Return the largest of each number over all processes; all of them call it at the same point."""
    if dist.get_world_size() == 1:
        return list(numbers)
    together = torch.tensor(numbers)
    dist.all_reduce(together, "max")
    return together.tolist()


def broadcast_buffers(runner: Any) -> None:
    """Give every process the buffers of the first one, whose checkpoint is what counts.

    Running statistics differ between processes where BatchNorm is not synchronised.
    """
    if dist.get_world_size() > 1:
        for buffer in unwrapped(runner.model).buffers():
            dist.broadcast(buffer)


def is_cpu_run() -> bool:
    """Whether the processes of this run compute on CPUs."""
    return get_device() == "cpu"


def exchange_addresses() -> None:
    """Let all processes know where each of them lives, for `explain_lost_process`, and notice lost machines."""
    if dist.get_world_size() > 1:
        _addresses[:] = dist.all_gather_object((socket.gethostname(), os.getpid()))
        if sys.platform == "linux":
            _limit_silence()


def _limit_silence() -> None:
    """Let the system end connections of this process whose other end is silent, alive or not its processes.

    A machine that is lost ends none. By default gloo waits for it for half an hour, and the store for five minutes.
    """
    options = {
        socket.TCP_USER_TIMEOUT: 1000 * _SILENCE,  # with something sent and not acknowledged
        socket.TCP_KEEPIDLE: _SILENCE // 4,  # with nothing sent, the system asks from time to time
        socket.TCP_KEEPINTVL: _SILENCE // 4,
        socket.TCP_KEEPCNT: 3,
    }
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # no socket, or one of another kind
            connection = socket.socket(fileno=number)
            try:
                for option, value in options.items():
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            finally:
                connection.detach()


def explain_lost_process(error: BaseException) -> str | None:
    """Return which process has ended and left this one alone, None where `error` is this one's own.

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
        return _ended(gone) if gone else "The process that connects the others has ended, or its machine is lost"


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
            return f"{_ended(gone)} without a word (killed, out of memory, or its machine is lost)"
        if late or not silent:
            return "The connection between the processes is broken"
        time.sleep(0.1)


def _ended(ranks: list[int]) -> str:
    which = f"Process {ranks[0]}" if len(ranks) == 1 else f"Processes {', '.join(map(str, ranks))}"
    return f"{which} of {dist.get_world_size()} {'has' if len(ranks) == 1 else 'have'} ended"


def _is_alive(rank: int) -> bool | None:
    """Whether a process lives, None where that cannot be seen from this machine."""
    host, pid = _addresses[rank] if rank < len(_addresses) else ("", 0)
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
    """Return the number of this process before the processes are connected, as its launcher says."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


class DistributedRunner(Runner):
    """Connect processes, wrap their models and gather their results, where MMEngine's Runner expects GPUs."""

    def setup_env(self, env_cfg: dict) -> None:
        """Connect the processes, on CPUs by gloo."""
        if self.distributed and is_cpu_run() and not dist.is_distributed():
            seconds = env_cfg.get("dist_cfg", {}).get("timeout")
            timeout = timedelta(seconds=seconds) if seconds is not None else None
            torch.distributed.init_process_group("gloo", timeout=timeout)  # MMEngine insists on GPUs
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; on CPUs without SyncBatchNorm, which PyTorch has on GPUs only."""
        if not self.distributed or not is_cpu_run():
            return super().wrap_model(model_wrapper_cfg, model)
        model = revert_sync_batchnorm(model)
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
            self.logger.info(
                "SyncBatchNorm needs GPUs: each process normalises with its own images, and all keep the running "
                "statistics of the first."
            )
        defaults = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": True,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
        }
        sync_bn = self.cfg.get("sync_bn")
        self.cfg.sync_bn = None
        try:
            return super().wrap_model({**defaults, **(model_wrapper_cfg or {})}, model)
        finally:
            self.cfg.sync_bn = sync_bn

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """Build an evaluator that scores exactly what it is given.

        Its processes meet in the work dir, not in whatever folder the user is in.
        """
        built = super().build_evaluator(exact_metrics(evaluator))
        for metric in built.metrics:
            if self.world_size > 1 and metric.collect_device == "cpu" and metric.collect_dir is None:
                metric.collect_dir = f"{self.work_dir}/.collect_{self.timestamp}"
        return built
