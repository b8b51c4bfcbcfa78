"""Errors that a user can fix: each message is one sentence with the cause and the fix.

The command-line tools print the sentence and exit with code 1, without a traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Base class of every mistake that the user, not the package, has to correct."""

    others: Sequence[UserError] = ()  # that were found with it; the commands print all


class RequirementError(UserError, ImportError):
    """A package that `localvit_det` stands on is missing, too old or too new."""


class ConfigError(UserError):
    """A config asks for something that cannot work."""


class DataError(UserError):
    """A dataset is missing, empty or inconsistent with the config."""


class CheckpointError(UserError):
    """A checkpoint is unreadable, unsafe or made for another model."""


class OutputError(UserError):
    """A file cannot be written: no space, no permission, or no such place."""


class ExportError(UserError):
    """A network cannot be exported, or what was exported computes something else."""


class NonFiniteError(UserError):
    """A training has gone off into NaN, infinity or ever larger losses."""


class ProcessError(UserError):
    """Another process is in the way, or one of this run's own has ended."""


def raise_all(errors: Sequence[UserError]) -> None:
    """Raise the first of several errors, which knows the others; nothing without any."""
    if errors:
        first, *errors[0].others = dict.fromkeys([one for error in errors for one in (error, *error.others)])
        raise first


def explain_limit(error: BaseException) -> str | None:
    """Return what to do where a limit of the machine or the job ended the work, None for any other error."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return (
            "Too many files are open at once: allow more with `ulimit -n 4096` in the shell, or use fewer data workers "
            "(train_dataloader.num_workers)."
        )
    memory = isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "_ArrayMemoryError")
    if memory or number == errno.ENOMEM or "can't allocate memory" in text:
        return (
            f"There is not enough memory ({first_line(error) or 'allocation failed'}): use a smaller batch "
            "(train_dataloader.batch_size), smaller images (image_size=) or model.backbone.with_cp=True, or allow the "
            "job more memory."
        )
    return None


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, to stand inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def printable(text: str) -> str:
    """Return a text in one line that any terminal takes: file names may hold line breaks and undecodable bytes."""
    return "".join(char if char.isprintable() else " " for char in text)


def shortened(names: Sequence[str], count: int = 3) -> str:
    """Return names in a sentence: the first few, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def did_you_mean(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ` (did you mean 'x'?)` with the nearest candidate or nothing; upper case counts as lower."""
    lower = {candidate.casefold(): candidate for candidate in sorted(map(str, candidates))}
    near = difflib.get_close_matches(str(name).casefold(), lower, n=1, cutoff=cutoff)
    return f" (did you mean '{lower[near[0]]}'?)" if near else ""
