"""Find the checkpoint to go on from: what the folder really holds counts, not what a pointer says."""

from __future__ import annotations

import logging
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import CheckpointError, ConfigError
from .read import load_weights_only

POINTER = "last_checkpoint"  # MMEngine's file with the path of the latest checkpoint
BEST = "best_"  # how the names of MMEngine's best checkpoints begin; they have no optimizer
# Of a zip archive: header of its first member (mark, compression, lengths of name and extra field), bytes of its end.
_BEGINNING, _END = struct.Struct("<4s4xH16xHH"), 22
_MEMBER_MARK, _END_MARK = b"PK\x03\x04", b"PK\x05\x06"
_BLOCK, _LONGEST = 1 << 20, 64 << 20  # bytes of a pickle
_OPCODES = 64  # among which epoch and iteration are
_TO_RESUME = {"state_dict", "message_hub", "optimizer"}


@dataclass(frozen=True)
class Found:
    """A checkpoint of a training that can be read."""

    path: Path
    epoch: int  # whole epochs that it has seen
    iteration: int  # iterations that it has seen
    resumable: bool  # it has all that a training needs to go on
    read: bool = True  # as a whole; else the beginning of the file says so

    @property
    def place(self) -> str:
        """Where in its training it is."""
        return f"epoch {self.epoch}, iteration {self.iteration}"


@dataclass
class Search:
    """What a folder holds."""

    folder: Path
    found: list[Found] = field(default_factory=list)  # the newest first
    damaged: dict[Path, str] = field(default_factory=dict)  # and why

    def newest(self, resumable: bool, whole: bool = True) -> Found | None:
        """Return the newest one, read once; what turns out to be damaged moves to `damaged`.

        Args:
            resumable: Take only those that a training can go on from.
            whole: Compare its tensors with their checksums, too.
        """
        while candidate := next((one for one in self.found if one.resumable or not resumable), None):
            reason = _damage(candidate.path) if candidate.read and whole else None
            if candidate.read and not reason:
                return candidate
            self.found.remove(candidate)
            if reason:
                self.damaged[candidate.path] = reason
            else:  # what it is by itself may put it elsewhere
                self.add(candidate.path)
        return None

    def add(self, path: Path) -> None:
        """Read a file, and take it up as what it is."""
        try:
            described = describe(path)
        except CheckpointError as error:
            self.damaged[path] = _cause(path, error)
        else:
            if described is not None:
                self.found.append(described)
                self.sort()

    def sort(self) -> None:
        """Bring what is found into its order."""
        self.found.sort(
            key=lambda one: (one.iteration, one.epoch, one.resumable, one.path.stat().st_mtime, one.read), reverse=True
        )

    def complaints(self) -> str:
        """Return the damaged files as half a sentence, or nothing."""
        return "; ".join(f"{path.name} {reason}" for path, reason in sorted(self.damaged.items()))


def check_saves_locally(hook: Mapping[str, Any]) -> None:
    """Raise ConfigError where a `CheckpointHook` with these settings saves where `search` does not look."""
    backend = (hook.get("backend_args") or hook.get("file_client_args") or {}).get("backend", "local")
    if "://" in str(hook.get("out_dir")) or backend not in ("local", "disk"):
        place = hook.get("out_dir") or f"the backend {backend!r}"
        raise ConfigError(
            f"The checkpoints would go to {place}, where --resume cannot look for them: leave out_dir and backend_args "
            "out of default_hooks.checkpoint, and copy the work dir to there."
        )


def search(folder: str | os.PathLike) -> Search:
    """Look at every .pth file of a folder that may be a training's checkpoint; the pointer is not asked.

    Of a file that `torch.save` wrote the beginning is read, which says where in its training it is: hundreds of them
    may lie there, and unpickling one takes as long as reading the beginnings of all. `Search.newest` reads the rest.
    """
    result = Search(Path(folder))
    for path in sorted(result.folder.glob("*.pth")) if result.folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if (described := _peek(path)) is not None:
            result.found.append(described)
        else:
            result.add(path)
    result.sort()
    return result


def _peek(path: Path) -> Found | None:
    """Return what the first bytes of a checkpoint of MMEngine's say; None where they do not say it.

    The archive of `torch.save` begins with its pickle, and that with `meta`; it is parsed, and nothing is built. A file
    that is cut off, has another order or is no archive at all is left to `describe`.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(-_END, os.SEEK_END)
            if stream.read(4) != _END_MARK:
                return None
            stream.seek(0)
            mark, method, name, extra = _BEGINNING.unpack(stream.read(_BEGINNING.size))
            if mark != _MEMBER_MARK or method or not stream.read(name).endswith(b"/data.pkl"):
                return None
            stream.seek(extra, os.SEEK_CUR)
            content = b""
            while (block := stream.read(_BLOCK)) and len(content) < _LONGEST and _MEMBER_MARK not in content:
                content += block
    except (OSError, struct.error):
        return None
    numbers = _first_numbers(content)
    if numbers is None:
        return None
    resumable = all(b"X" + struct.pack("<I", len(key)) + key.encode() in content for key in _TO_RESUME)
    return Found(path, *numbers, resumable, read=False)


def _first_numbers(content: bytes) -> tuple[int, int] | None:
    """Return epoch and iteration, if a pickle begins with a dict of `meta`, and that with the two."""
    found: dict[str, int] = {}
    texts: list[str] = []
    try:
        for opcode, argument, _position in islice(pickletools.genops(content), _OPCODES):
            if isinstance(argument, str):
                texts.append(argument)
            elif opcode.name in ("BININT", "BININT1", "BININT2") and texts[:1] == ["meta"]:
                found.setdefault(texts[-1], int(argument or 0))
            if {"epoch", "iter"} <= found.keys():
                return found["epoch"], found["iter"]
    except Exception:  # no pickle, or one that is cut off: whatever reads it says so
        return None
    return None


def describe(path: Path) -> Found | None:
    """Read where in its training a checkpoint is; None for a file of weights that is no training's.

    Raises CheckpointError where it cannot be read.
    """
    content = load_weights_only(path, mmap=True)
    meta = content.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("iter"), int) or not isinstance(meta.get("epoch"), int):
        return None
    return Found(path, meta["epoch"], meta["iter"], content.keys() >= _TO_RESUME)


def newest_for_test(folder: str | os.PathLike) -> Path:
    """Return the checkpoint that a test of a work dir takes: the newest that can be read, best ones included.

    Raises:
        CheckpointError: There is none; the sentence says what there is instead.
    """
    found = search(folder)
    newest = found.newest(resumable=False)
    if newest is not None:
        if ignored := found.complaints():
            print_log(f"Taking {newest.path}; {ignored}.", "current", logging.WARNING)
        return newest.path
    reasons = ", ".join(filter(None, (found.complaints(), _pointed_elsewhere(found.folder))))
    raise CheckpointError(
        f"The work dir {folder} holds no checkpoint{f' that can be read ({reasons})' if reasons else ''}: "
        "name a file, or train first."
    )


def checkpoint_file(source: str | os.PathLike) -> str:
    """Return the file of a checkpoint that a user names: of a work dir, the one that a test takes."""
    return os.fspath(newest_for_test(source) if os.path.isdir(source) else source)


def file_to_resume(source: str | os.PathLike) -> str:
    """Return the file to go on from: of a work dir, the newest with an optimizer; raise CheckpointError without one."""
    if not os.path.isdir(source):
        return os.fspath(source)
    found = search(source)
    if (newest := found.newest(resumable=True, whole=False)) is None:
        reasons = found.complaints() or ("none has an optimizer" if found.found else "it has no checkpoint")
        raise CheckpointError(f"A training cannot go on from the work dir {source} ({reasons}): name a checkpoint.")
    return os.fspath(newest.path)


def nothing_to_resume(found: Search) -> CheckpointError:
    """Return the error where a folder has checkpoints, and none from which a training can go on."""
    weights_only = [f"{one.path.name} has no optimizer" for one in found.found]
    reasons = "; ".join(filter(None, (found.complaints(), *weights_only)))
    return CheckpointError(
        f"--resume finds no usable checkpoint in {found.folder} ({reasons}), and a new start would replace them: move "
        "them away to begin anew, or name a checkpoint after --resume."
    )


def _pointed_elsewhere(folder: Path) -> str:
    try:
        target = Path((folder / POINTER).read_text(errors="replace").strip())
    except OSError:
        return ""
    if target.name and target.parent.absolute() != folder.absolute():
        return f"its file {POINTER} points to {target}"
    return ""


def _damage(path: Path) -> str | None:
    """Return what is wrong with a file, None for nothing: its tensors are read and compared with their checksums."""
    try:
        if not zipfile.is_zipfile(path):  # a format of before torch 1.6, without checksums
            load_weights_only(path)
            return None
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except CheckpointError as error:
        return _cause(path, error)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        return f"is damaged ({' '.join(str(error).split()) or type(error).__name__})"
    return f"is damaged (the checksum of {bad} is wrong)" if bad else None


def _cause(path: Path, error: CheckpointError) -> str:
    """Return a sentence's cause, without the path before it and the advice behind it."""
    return str(error).removeprefix(f"{path} ").rpartition(": ")[0]


def steps_of(template: str, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield (number, file) of the files whose names follow MMEngine's template, e.g. `epoch_{}.pth`."""
    before, _, after = template.partition("{}")
    for path in folder.glob(f"{before}*{after}"):
        middle = path.name[len(before) : len(path.name) - len(after)]
        if middle.isdecimal():
            yield int(middle), path
