"""What has to hold in a work dir, whatever was done to its training."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.checkpoint.search import POINTER, Found, search


def newest(work_dir: Path) -> Found | None:
    """Return the checkpoint from which a training would go on."""
    return search(work_dir).newest(resumable=True)


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def problems(work_dir: Path, damaged: dict[str, tuple]) -> Iterator[str]:
    """Yield what is wrong with the files of a training that is not running.

    Args:
        damaged: Names and stamps of damaged files that the test itself has put there.
    """
    for path in work_dir.glob("*.pth"):
        if damaged.get(path.name) != stamp(path) and (reason := torn(path)):
            yield f"{path.name} is torn ({reason})"
    pointer = work_dir / POINTER
    target = Path(pointer.read_text()) if pointer.exists() else None
    # Between two writes it names the one before, which is still there. Those that lead elsewhere are the test's own.
    if target is not None and target.parent == work_dir and not target.is_file():
        yield f"{POINTER} names {target.name}, which is not there"


def torn(path: Path) -> str | None:
    """Return why a file under a checkpoint's name is none: every byte of it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return f"checksum of {bad}" if bad else None


def drafts(work_dir: Path) -> list[str]:
    """Return the names of files that were being written."""
    return [path.name for path in work_dir.glob(".*.tmp") if re.fullmatch(r"\..+\.\d+\.tmp", path.name)]


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of what is not bitwise identical in two checkpoints."""
    return different(values_of(first), values_of(second))


def values_of(checkpoint: Path) -> dict[str, object]:
    """Return by name what a training goes on from: weights, averages, optimizer, schedules, accumulated gradients."""
    content = load_weights_only(checkpoint)
    parts = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "gradients")
    return dict(_leaves({part: content[part] for part in parts if part in content}, ""))


def different(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Return the names of values that are not bitwise identical, or that only one side has."""
    if one.keys() != other.keys():
        return sorted(one.keys() ^ other.keys())
    return [name for name in one if not _equal(one[name], other[name])]


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield name, value
    else:
        for key, child in children:
            yield from _leaves(child, f"{name}.{key}")


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
    return one == other


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
