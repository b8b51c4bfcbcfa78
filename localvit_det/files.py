"""Files that are there whole or not at all, and outputs that are checked before the work that makes them."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_DRAFT = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def atomic_file(path: str | os.PathLike, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` in one step when the block ends without an error.

    It is written next to `path` and flushed to the disk first: after a crash there is the old file or the new one,
    never a part of either. After an error nothing is left of it; after a SIGKILL `remove_drafts` takes it away.

    Args:
        flush: Hold also where the machine itself stops; not worth the wait for each of thousands of images.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # a work dir may have been removed in the middle
        with open(draft, "wb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if flush:
        _flush(path.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Make a folder that gets the name `path` in one step when the block ends without an error.

    Raises:
        OSError: It cannot be written, or there is something at `path` that is not an empty folder.
    """
    path = Path(os.path.realpath(path))
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def move_with_parts(draft: Path, path: Path) -> None:
    """Move a whole file to `path`, after the other files of its folder, which it needs.

    Where there are others, an old file at `path` is removed first: it must never be read with new parts.
    """
    parts = [part for part in draft.parent.iterdir() if part != draft]
    if parts:
        path.unlink(missing_ok=True)
    for part, place in [*((part, path.with_name(part.name)) for part in parts), (draft, path)]:
        _flush(part)
        os.replace(part, place)
    _flush(path.parent)


def write_bytes(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Write a file as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8 as `atomic_file` does; what UTF-8 cannot hold is written as an escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def holds(path: Path, texts: Collection[bytes]) -> bool:
    """Whether all of some short texts stand in a file, of which no more than a part is in memory."""
    lacking, end = set(texts), b""
    with path.open("rb") as file:
        while lacking and (block := file.read(1 << 20)):
            block = end + block
            lacking = {text for text in lacking if text not in block}
            end = block[-max(map(len, texts)) :]  # one may begin there
    return not lacking


def remove_drafts(folder: str | os.PathLike) -> list[str]:
    """Remove what killed processes left behind; call it only while no other process writes there.

    Returns:
        The names of the removed files.
    """
    drafts = [path for path in Path(folder).glob(".*.tmp") if _DRAFT.fullmatch(path.name)]
    for path in drafts:
        path.unlink(missing_ok=True)
    return [path.name for path in drafts]


def what_is_there(path: Path) -> str:
    """Say for a missing path which part of it exists and what lies there."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir())
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{parent} holds {listed or 'nothing'}"


def check_writable(path: str | os.PathLike, option: str) -> None:
    """Check that a file can be written at `path`, which need not exist; its folders are made.

    Args:
        path: The file of an output.
        option: Where the user named it, for the sentence.

    Raises:
        OutputError: It cannot.
    """
    path = Path(os.path.realpath(path))
    reason = "it is a folder" if path.is_dir() else _obstacle(path.parent)
    if reason:
        raise OutputError(f"{option} {path} cannot be written ({reason}): name another place.")


def check_writable_folder(path: str | os.PathLike, option: str) -> None:
    """Check that files can be written into a folder, which is made.

    Args:
        path: The folder of an output.
        option: Where the user named it, for the sentence.

    Raises:
        OutputError: They cannot.
    """
    path = Path(os.path.realpath(path))
    if reason := _obstacle(path):
        raise OutputError(f"Nothing can be written into {option} {path} ({reason}): name another place.")


def _obstacle(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Trying is the only test that holds for root, read-only mounts and full disks alike.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except FileExistsError:
        return os.strerror(errno.ENOTDIR)  # mkdir says "File exists", which is no explanation
    except OSError as error:
        return error.strerror or str(error)
    return None


def _flush(path: Path) -> None:
    """Let a file, or the names in a folder, survive a power cut, too, where the system allows it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(handle)
