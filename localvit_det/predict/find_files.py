"""Files of a folder or a pattern, each folder looked into once, wherever links lead."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Found:
    """What a search has found.

    Attributes:
        files: In the order of their paths.
        hidden: How many hidden files were passed over that end like the others.
        unreadable: Folders that could not be listed, and links that lead nowhere, and why.
    """

    files: list[Path] = field(default_factory=list)
    hidden: int = 0
    unreadable: dict[str, OSError] = field(default_factory=dict)


def find_files(pattern: Path, suffixes: Sequence[str] | None = None) -> Found:
    """Return the files that a pattern of `glob` names; `**` stands for folders at any depth.

    Unlike `glob` it ends where links form circles or many ways to one folder: each folder is listed once.

    Args:
        suffixes: In lower case; others are passed over.
    """
    found, seen = Found(), set[tuple]()
    start = Path(pattern.anchor)
    parts = pattern.relative_to(start).parts
    parts += ("*",) if parts[-1] == "**" else ()
    _search(start, parts, tuple(suffixes or ("",)), found, seen)
    found.files.sort()
    return found


def _search(folder: Path, parts: Sequence[str], suffixes: tuple[str, ...], found: Found, seen: set) -> None:
    part, rest = parts[0], parts[1:]
    if part == "**":
        _search(folder, rest, suffixes, found, seen)
    literal = not glob.has_magic(part) or os.path.lexists(folder / part)
    key = os.path.realpath(folder), parts
    if key in seen:
        return
    seen.add(key)
    if literal:
        names = [part]
    else:
        try:
            names = os.listdir(folder)
        except OSError as error:
            if not isinstance(error, (NotADirectoryError, FileNotFoundError)):
                found.unreadable[str(folder)] = error
            return
    for name in names:
        path = folder / name
        if not literal and part != "**" and not fnmatch.fnmatch(name, part):
            continue
        hidden = name.startswith(".") and not (literal or part.startswith("."))
        if rest:
            if not hidden and path.is_dir():
                _search(path, parts if part == "**" else rest, suffixes, found, seen)
        elif name.lower().endswith(suffixes):
            if path.is_file():
                found.hidden += hidden
                found.files += [] if hidden else [path]
            elif path.is_symlink() and not path.exists():
                found.unreadable[str(path)] = FileNotFoundError(errno.ENOENT, "it is a link to nothing")
