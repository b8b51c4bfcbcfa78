"""Find the checkpoint to go on from: what the folder really holds counts, not what a pointer says."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import CheckpointError, ConfigError
from .read import load_weights_only

POINTER = "last_checkpoint"  # MMEngine's file with the path of the latest checkpoint
BEST = "best_"  # how the names of MMEngine's best checkpoints begin; they have no optimizer


@dataclass(frozen=True)
class Found:
    """A checkpoint of a training that can be read."""

    path: Path
    epoch: int  # whole epochs that it has seen
    iteration: int  # iterations that it has seen
    resumable: bool  # it has all that a training needs to go on

    @property
    def place(self) -> str:
        """Return where in its training it is, for a sentence."""
        return f"epoch {self.epoch}, iteration {self.iteration}"


@dataclass
class Search:
    """What a folder holds."""

    folder: Path
    found: list[Found] = field(default_factory=list)  # the newest first
    damaged: dict[Path, str] = field(default_factory=dict)  # and why

    def newest(self, resumable: bool) -> Found | None:
        """Return the newest whole one; what turns out to be damaged moves to `damaged`.

        Args:
            resumable: Take only those that a training can go on from.
        """
        for candidate in list(self.found):
            if resumable and not candidate.resumable:
                continue
            if (reason := _damage(candidate.path)) is None:
                return candidate
            self.found.remove(candidate)
            self.damaged[candidate.path] = reason
        return None

    def complaints(self) -> str:
        """Return the damaged files as half a sentence, or nothing."""
        return "; ".join(f"{path.name} {reason}" for path, reason in sorted(self.damaged.items()))


def check_saves_locally(hook: Mapping[str, Any]) -> None:
    """Check that a `CheckpointHook` with these settings saves into a folder of this machine, where `search` looks.

    Raises:
        ConfigError: It does not.
    """
    backend = (hook.get("backend_args") or hook.get("file_client_args") or {}).get("backend", "local")
    if "://" in str(hook.get("out_dir")) or backend not in ("local", "disk"):
        place = hook.get("out_dir") or f"the backend {backend!r}"
        raise ConfigError(
            f"The checkpoints would go to {place}, where --resume cannot look for them: leave out_dir and backend_args "
            "out of default_hooks.checkpoint, and copy the work dir to there."
        )


def search(folder: str | os.PathLike) -> Search:
    """Look at every .pth file of a folder that may be a training's checkpoint; the pointer is not asked.

    Only what describes a file is read, not its tensors: see `Search.newest` for the rest.
    """
    result = Search(Path(folder))
    for path in sorted(result.folder.glob("*.pth")) if result.folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        try:
            described = describe(path)
        except CheckpointError as error:
            result.damaged[path] = _cause(path, error)
        else:
            if described is not None:
                result.found.append(described)
    result.found.sort(key=lambda one: (one.iteration, one.epoch, one.resumable, one.path.stat().st_mtime), reverse=True)
    return result


def describe(path: Path) -> Found | None:
    """Read where in its training a checkpoint is; None for a file of weights that is no training's.

    Raises:
        CheckpointError: It cannot be read.
    """
    content = load_weights_only(path, mmap=True)
    meta = content.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("iter"), int) or not isinstance(meta.get("epoch"), int):
        return None
    resumable = {"state_dict", "message_hub", "optimizer"} <= content.keys()
    return Found(path, meta["epoch"], meta["iter"], resumable)


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
    elsewhere = _pointed_elsewhere(found.folder)
    reasons = ", ".join(filter(None, (found.complaints(), elsewhere)))
    raise CheckpointError(
        f"The work dir {folder} holds no checkpoint{f' that can be read ({reasons})' if reasons else ''}: "
        "name a file, or train first."
    )


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
