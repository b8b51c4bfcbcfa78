"""One training in one work dir."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from ..errors import ProcessError

LOCK = ".lock"
_held: dict[str, int] = {}  # file: its handle, open as long as the lock is wanted


def lock_work_dir(folder: str | os.PathLike) -> None:
    """Takes the lock of a work dir for this process; taking it again changes nothing.

    The system gives it back when the process ends, however it ends. Processes that this one starts do not have it.

    Raises:
        ProcessError: A living process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = Path(folder).absolute() / LOCK
    if str(path) in _held:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # the checks before a run tell why nothing can be written there
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
    _held[str(path)] = handle


def unlock_work_dir(folder: str | os.PathLike) -> None:
    """Gives the lock back, if this process has it."""
    path = Path(folder).absolute() / LOCK
    handle = _held.pop(str(path), None)
    if handle is not None:
        os.close(handle)  # the file stays: another process may be about to lock it
