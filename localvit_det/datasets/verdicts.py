"""What was found in large annotation files, kept from one start to the next; processes wait for the one that reads."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from ..files import atomic_file
from .summary import Annotations

CACHE = "LOCALVIT_CACHE"  # variable with the folder of copies and verdicts
_VERSION = 1  # raise it with every change of the checks, and of what is kept
_SMALL = 1_000_000  # bytes of a file that is read again at every start, in a hundredth of a second
_END = 65536  # bytes at either end that are compared


def cache_folder() -> Path:
    """Return where copies go: `$LOCALVIT_CACHE`, or the user's folder for such files."""
    own = os.environ.get(CACHE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "localvit_det"


class Verdict:
    """What is known of a file, None before it is read."""

    found: Annotations | None = None


@contextlib.contextmanager
def kept_verdict(path: Path) -> Iterator[Verdict]:
    """Give what was kept of a file, if it is the same, and keep what is found in the block, if nothing was.

    One process at a time: of those that start together the first one reads the file, the others get what it found.
    """
    verdict = Verdict()
    if path.stat().st_size < _SMALL:
        yield verdict
        return
    file = cache_folder() / "verdicts" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.npz"
    with locked(file.with_suffix(".lock")):
        state = _state(path)
        verdict.found = known = _load(file, state)
        yield verdict
        if known is None and verdict.found is not None:
            values, arrays = verdict.found.stored()
            kept: dict[str, Any] = {**arrays, "text": np.frombuffer(json.dumps([state, values]).encode(), np.uint8)}
            try:
                with atomic_file(file, flush=False) as stream:
                    np.savez(stream, **kept)
            except OSError as error:
                place = f"{file.parent} ({error.strerror})"
                print_log(
                    f"What was found in {path} cannot be kept in {place}: the next start reads it again.", "current"
                )


def _state(path: Path) -> list:
    """Return what changes with the file and the checks."""
    stat = path.stat()
    with path.open("rb") as file:
        ends = [file.read(_END)]
        file.seek(max(0, stat.st_size - _END))
        ends.append(file.read(_END))
    return [_VERSION, str(path), stat.st_size, stat.st_mtime_ns, hashlib.sha256(b"".join(ends)).hexdigest()]


def _load(file: Path, state: list) -> Annotations | None:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
        known, values = json.loads(arrays.pop("text").tobytes())
        return Annotations.restored((values, arrays)) if known == state else None
    except Exception:  # there is none, or it is of a broken disk, of which zipfile and others raise much
        return None


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one process in at a time, where the system can lock files."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            file.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(file.open("w")), fcntl.LOCK_EX)
        yield
