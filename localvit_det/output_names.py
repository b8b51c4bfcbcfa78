"""The one place that makes names of outputs: below their folder, unique, and valid on every system."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePath

from .errors import OutputError
from .files import atomic_file

INDEX = ".localvit_outputs"

_LONGEST = 180  # bytes of a name: file systems take 255, and a number, a suffix and a draft's marks have to fit
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows


def safe_name(text: str, default: str = "_") -> str:
    """Return a text as the name of one file: no separators, no control characters, nothing that a system reserves.

    Names that all systems take stay as they are.

    Args:
        default: Where nothing is left of the text.
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
        """Return a name below the folder that no call has returned yet, as near to a relative path as can be.

        Args:
            suffix: In the place of the path's own.
        """
        *folders, last = _parts(wanted)
        stem, own = os.path.splitext(last)
        suffix = own if suffix is None else suffix
        while _keys_of_folders([*folders, last]) & self._files:
            folders[0] += "_"  # a file has the name of a folder
        names = ("/".join((*folders, f"{stem}{middle}{suffix}")) for middle in _middles("" if own == suffix else own))
        name = next(name for name in names if _key(name) not in self._files and _key(name) not in self._folders)
        self._files.add(_key(name))
        self._folders |= _keys_of_folders([*folders, last])
        return name


class OutputFolder(UniqueNames):
    """A folder that one run writes into, and never over one of its inputs.

    An index in the folder, `.localvit_outputs`, lists what was written, so that a later run does not take it for
    images of the user: see `without_outputs`.

    Args:
        folder: Is made with the first file.
        inputs: Files that are never written over.
    """

    def __init__(self, folder: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._inputs = list(inputs)
        self._listed: set[str] | None = None  # in the index

    def plan(self, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Return names as `UniqueNames.plan` does.

        Raises:
            OutputError: One of them is an input.
        """
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


def _middles(own: str) -> Iterator[str]:
    """Yield what may stand between a stem and its suffix: nothing, then the suffix that it had, then numbers."""
    yield ""
    if own:
        yield f"_{own[1:]}"
    yield from (f"_{number}" for number in itertools.count(2))


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
