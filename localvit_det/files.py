"""Files that are there whole or not at all; outputs are checked, and named, before the work that makes them.

Names of outputs are below their folder, unique, and valid on every system.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import BinaryIO

from .errors import OutputError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
CACHE = "LOCALVIT_CACHE"  # variable with the folder of copies and verdicts
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

    Raises OSError where it cannot be written, or something is at `path` that is not an empty folder.
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
    digest = hashlib.sha256()
    with file.open("rb") as stream:
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


def cache_folder() -> Path:
    """Return where copies go: `$LOCALVIT_CACHE`, or the user's folder for such files."""
    own = os.environ.get(CACHE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "localvit_det"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one process in at a time, where the system can lock files."""
    with ExitStack() as stack:
        with suppress(OSError, ImportError):
            import fcntl

            file.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(file.open("w")), fcntl.LOCK_EX)
        yield


def remove_drafts(folder: str | os.PathLike) -> list[str]:
    """Remove what killed processes left, and return the names; call it only while no other process writes there."""
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
    """Check that an output can be written at `path`, which need not exist; its folders are made.

    Args:
        option: Where the user named it, for the sentence.

    Raises:
        OutputError: It cannot.
    """
    path = Path(os.path.realpath(path))
    reason = "it is a folder" if path.is_dir() else _obstacle(path.parent)
    if reason:
        raise OutputError(f"{option} {path} cannot be written ({reason}): name another place.")


def check_writable_folder(path: str | os.PathLike, option: str) -> None:
    """Check the same of a folder, for any file in it."""
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


INDEX = ".localvit_outputs"

_LONGEST = 180  # bytes of a name: file systems take 255, and a number, a suffix and a draft's marks have to fit
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows


def safe_name(text: str, default: str = "_") -> str:
    """Return a text as the name of one file: no separators, no control characters, nothing that a system reserves.

    Names that all systems take stay as they are; `default` stands where nothing is left of the text.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    text = "".join("_" if char in '<>:"/\\|?*' or not char.isprintable() else char for char in text)
    text = text.rstrip(" .").lstrip(" ") or default
    if text.startswith("."):
        text = f"_{text.lstrip('.')}"  # else hidden, or the parent folder
    if _RESERVED.fullmatch(text):
        text = f"_{text}"
    if len(text.encode()) > _LONGEST:
        stem, suffix = os.path.splitext(text)
        suffix = suffix if len(suffix.encode()) <= 10 else ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = f"{stem.encode()[: _LONGEST - 20].decode(errors='ignore')}~{digest}{suffix}"
    return text


def drawn_suffix(name: str) -> str:
    """Return the suffix of the drawn image of a file: its own where everything writes and shows that."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff") else ".jpg"


class UniqueNames:
    """Names of the files that one run writes below a folder: no two are the same on any system."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def plan(self, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Return a name for each pair of a relative path and the suffix that it gets, before anything is written.

        A path that keeps its suffix comes first, so that `a.jpg` stays `a.jpg` and `a.png` becomes `a_png.jpg`,
        whatever their order.
        """
        for name, _ in wanted:
            self._folders.update(_keys_of_folders(_parts(name)))
        order = sorted(range(len(wanted)), key=lambda index: not wanted[index][0].endswith(wanted[index][1]))
        names = {index: self.name(*wanted[index]) for index in order}
        return [names[index] for index in range(len(wanted))]

    def name(self, wanted: str, suffix: str | None = None) -> str:
        """Return a name that no call has returned yet, as near to a relative path (with another suffix) as can be."""
        *folders, last = _parts(wanted)
        stem, own = os.path.splitext(last)
        suffix = own if suffix is None else suffix
        while _keys_of_folders([*folders, last]) & self._files:
            folders[0] += "_"  # a file has the name of a folder
        former = [f"_{own[1:]}"] if own not in ("", suffix) else []  # the suffix that it had, before numbers
        middles = itertools.chain([""], former, (f"_{number}" for number in itertools.count(2)))
        names = ("/".join((*folders, f"{stem}{middle}{suffix}")) for middle in middles)
        name = next(name for name in names if _key(name) not in self._files and _key(name) not in self._folders)
        self._files.add(_key(name))
        self._folders |= _keys_of_folders([*folders, last])
        return name


class OutputFolder(UniqueNames):
    """A folder that one run writes into, and never over one of its inputs.

    The folder is made with the first file, and `inputs` are what is never written over. An index in it,
    `.localvit_outputs`, lists what was written, so that a later run does not take it for images of the user: see
    `without_outputs`.
    """

    def __init__(self, folder: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._inputs = list(inputs)
        self._listed: set[str] | None = None  # in the index

    def plan(self, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Return names as `UniqueNames.plan` does; raise OutputError where one of them is an input."""
        names = super().plan(wanted)
        for name in names:
            self._check(name)
        return names

    def keep(self, path: str | os.PathLike) -> None:
        """Take a file as an input, too."""
        self._identities.update(filter(None, [_identity(path)]))

    def path(self, name: str) -> Path:
        """Return where a file of this name goes, after listing it in the index; its folder is made.

        Raises:
            OutputError: It is an input.
            OSError: Nothing can be written.
        """
        self._check(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._listed is None:
            self._listed = listed_outputs(self.folder)
        if name not in self._listed:
            with open(self.folder / INDEX, "a", encoding="utf-8") as index:
                index.write(f"\n{name}")  # in this order a line that a full disk has cut off spoils no other
            self._listed.add(name)
        return path

    def write(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all; errors are those of `path`."""
        path = self.path(name)
        with atomic_file(path, flush=False) as file:
            file.write(content)
        return path

    @cached_property
    def _identities(self) -> set[tuple[int, int]]:
        return {identity for path in self._inputs if (identity := _identity(path))}

    def _check(self, name: str) -> None:
        path = self.folder / name
        if (identity := _identity(path)) and identity in self._identities:
            raise OutputError(f"{path} would be written over an image that is read: name another output folder.")


def listed_outputs(folder: str | os.PathLike) -> set[str]:
    """Return the names that the index of a folder of outputs lists; none where it has no index."""
    try:
        return set(Path(folder, INDEX).read_text(encoding="utf-8", errors="replace").split("\n")) - {""}
    except OSError:
        return set()


def without_outputs(files: Iterable[Path]) -> list[Path]:
    """Return the files that no earlier run has written, as the indices in the folders above them say."""
    listed = cache(listed_outputs)
    kept = []
    for file in files:
        whole = file.absolute()
        above = (folder for folder in whole.parents if listed(folder))
        if not any(whole.relative_to(folder).as_posix() in listed(folder) for folder in above):
            kept.append(file)
    return kept


def _parts(name: str) -> list[str]:
    return [safe_name(part) for part in PurePath(name).parts] or ["_"]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _keys_of_folders(parts: Sequence[str]) -> set[str]:
    return {_key("/".join(parts[:count])) for count in range(1, len(parts))}


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
