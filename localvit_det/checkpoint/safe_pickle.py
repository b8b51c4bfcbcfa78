"""Unpickle a checkpoint without running anything of it: which globals it may name, and how much it may build.

PyTorch's `weights_only` unpickler calls whatever is on its allow-list with arguments from the file. NumPy's own
helpers are not safe for that: `numpy.dtype.__setstate__` accepts flags that make floats pass for pointers. So every
allowed name leads to a record that only keeps its arguments, and the real objects are made afterwards, by `restore`,
from checked values. The list was read from checkpoints of MMEngine 0.10.7; without it PyTorch refuses them
(https://github.com/open-mmlab/mmengine/issues/1655).
"""

from __future__ import annotations

import pickle
import pickletools
import posixpath
import re
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import CheckpointError, first_line, printable

MapLocation = str | torch.device | dict[str, str] | Callable[..., Any]

# Records of torch.save are not compressed, and each tensor has a place of its own; a few names may share one.
_TIMES, _SLACK = 4, 64 << 20
_MAX_TUPLE, _MAX_TUPLE_DEPTH = 1_000_000, 100
_LEGACY_PICKLES = 5  # of the format before torch 1.6: magic, protocol, system, content, keys of storages
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ")  # that hold what they take from the stack
_STATISTICS = frozenset({"min", "max", "current", "mean"})
# The allow-list of torch is global, and so is our exchange of it.
_ALLOW_LIST_LOCK = threading.Lock()


def load_pickle(file: Path, map_location: MapLocation, mmap: bool) -> Any:
    """Load what `torch.save` (in any format) or `pickle` wrote; arguments are those of `read.load_weights_only`.

    Raises:
        CheckpointError: It names what is not on the allow-list, is damaged, or would build much more than it holds.
    """
    try:
        with _open_pickle(file) as stream:
            check_tuples(stream)
        with _only_allowed_globals():
            # An explicit weights_only wins over TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.
            mapped = mmap and is_archive(file)
            content = restore(torch.load(file, map_location=map_location, weights_only=True, mmap=mapped))
        _check_tensors(content, file.stat().st_size)
        return content
    except TooLarge as error:
        raise error.of(file) from error
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))  # without torch's advice to load unsafely
        what = f"cannot be read as a checkpoint ({first_line(reason[1] if reason else error)})"
        advice = "save or download it again"
        if re.search(r"\b(DTensor|ShardedTensor)", str(error)):
            what = "is one process's part of a sharded model"
            advice = (
                "save its whole state dict, in torch.distributed.checkpoint with StateDictOptions(full_state_dict=True)"
            )
        elif refused := _refused_global(file, error):
            what = f"is refused, because it could run code when loaded (it names {printable(refused)[:200]})"
            advice = "use a checkpoint that holds only weights"
        raise CheckpointError(f"{file} {what}: {advice}.") from error


def is_archive(file: Path) -> bool:
    """Whether torch takes a file for an archive: by its beginning alone, whatever the end of a pickle looks like."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _open_pickle(file: Path) -> IO[bytes]:
    if not is_archive(file):
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    return archive.open(next(name for name in archive.namelist() if Path(name).name == "data.pkl"))


@contextmanager
def _only_allowed_globals() -> Iterator[None]:
    """Set exactly our allow-list: another package may have put the real `getattr` on the global one."""
    with _ALLOW_LIST_LOCK:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*ALLOWED_GLOBALS])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _refused_global(file: Path, error: Exception) -> str | None:
    """Return the global that made torch refuse a file, None where it failed for another reason."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    # Protocols above 2 fail at an opcode, before torch sees a name.
    harmless = {"_codecs.encode", *(name for _record, name in ALLOWED_GLOBALS)}
    names = [name for name in _named_globals(file) if not name.startswith(("torch.", "collections."))]
    return ", ".join(name for name in dict.fromkeys(names) if name not in harmless) or None


def _named_globals(file: Path) -> Iterator[str]:
    """Yield the globals of a pickle in any protocol, found by parsing alone."""
    texts: list[str] = []
    try:
        with _open_pickle(file) as stream:
            while True:  # the format before torch 1.6 is a row of pickles
                for opcode, argument, _position in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        yield str(argument).replace("__builtin__", "builtins").replace(" ", ".")
                    elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                        yield ".".join(texts[-2:])
                    elif isinstance(argument, str):
                        texts.append(argument)
    # The end, no pickle at all, a text of any announced length, or a damaged archive.
    except (ValueError, OverflowError, MemoryError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        return


# ---- limits: small files can be made to take all memory or time


class TooLarge(Exception):
    """What a file would take is out of proportion; the message says what."""

    def of(self, file: Path) -> CheckpointError:
        """Return the error that names the file."""
        return CheckpointError(
            f"{file} is refused, because it {self}, as no checkpoint does: save or download it again."
        )


def check_total(total: int, size: int, what: str) -> None:
    """Raise TooLarge where bytes in memory are out of proportion to the `size` of a file."""
    if total > _TIMES * size + _SLACK:
        raise TooLarge(f"{what} {total:,} bytes, and has {size:,}")


def check_tuples(stream: IO[bytes]) -> None:
    """Check the tuples that a stream of pickles would build, without building them.

    A tuple may hold another one twice, that one a third twice, and so on: who visits or hashes all of it never ends.

    Raises:
        TooLarge: A tuple is larger or deeper than any of a checkpoint.
    """
    with suppress(ValueError, IndexError):  # the end, or no pickle: torch says what is wrong with it
        for _ in range(_LEGACY_PICKLES):
            _check_tuples(stream)


def _check_tuples(stream: IO[bytes]) -> None:
    leaf, mark = (1, 0), object()  # size and depth
    stack: list[Any] = []
    memo: dict[Any, tuple[int, int]] = {}
    for opcode, argument, _position in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            stack.append(mark)
        elif "GET" in name:
            stack.append(memo.get(argument, leaf))
        elif "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken: list[tuple[int, int]] = []
            for kind in reversed(opcode.stack_before):
                if kind is pickletools.stackslice:
                    while stack[-1] is not mark:
                        taken.append(stack.pop())
                elif kind is pickletools.markobject:
                    stack.pop()
                else:
                    taken.append(stack.pop())
            made = leaf
            if name in _TUPLES and taken:
                made = (1 + sum(one for one, _ in taken), 1 + max(depth for _, depth in taken))
            if made[0] > _MAX_TUPLE or made[1] > _MAX_TUPLE_DEPTH:
                raise TooLarge("nests tuples in each other without end")
            stack += [made] * len(opcode.stack_after)


def _check_tensors(content: Any, size: int) -> None:
    """Raise TooLarge where tensors take much more than their file of `size` bytes: views may repeat a few numbers."""
    total = 0
    left, seen = [content], set()
    while left:  # every tensor as often as it is named; containers once
        value = left.pop()
        if isinstance(value, Tensor):
            if value.layout is not torch.strided:
                raise TooLarge("holds a sparse tensor")
            total += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    check_total(total, size, "holds tensors of")


# ---- records: inert objects that stand for the allowed globals; `restore` returns what they stand for


class DtypeRecord:
    """Stands for `numpy.dtype`: a plain number or text type."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        # No objects (O), structures (V) or dates (M, m): a number needs nothing but its name and byte order.
        if not re.fullmatch(r"[biufcSU][1-9]\d*", name):  # nor texts of no letters, of which copies make some
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype[{name}] is not a plain number or text type")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def restore(self) -> np.dtype:
        return self.dtype


class ArrayRecord:
    """Stands for `numpy.ndarray`."""

    def __setstate__(self, state: tuple) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state

    def restore(self) -> np.ndarray:  # with memory of its own
        return np.ndarray(self.shape, self.dtype.restore(), self.data, order="F" if self.fortran else "C").copy()


class HistoryBufferRecord:
    """Stands for MMEngine's `HistoryBuffer`, the logged values of one scalar."""

    def __setstate__(self, state: dict) -> None:
        self.state = state

    def restore(self) -> HistoryBuffer:
        # Its table of statistics comes from the class, never from the file.
        histories = (self.state[key].restore() for key in ("_log_history", "_count_history"))
        return HistoryBuffer(*histories, self.state["max_length"])


class Settings(dict):
    """Stands for `argparse.Namespace`, which timm and the official codes of DeiT's kind save with the weights."""

    def __setstate__(self, state: dict) -> None:
        self.update(state)


def _reconstruct(array_type: type, shape: tuple, typecode: bytes) -> ArrayRecord:
    return ArrayRecord()


def _scalar(dtype: DtypeRecord, data: bytes) -> np.generic:
    return np.ndarray((), dtype.restore(), data)[()]


def _statistics_name(owner: type, name: str) -> str:
    """Stand for `builtins.getattr`, which pickles write for `HistoryBuffer.min` and its like."""
    if owner is not HistoryBufferRecord or name not in _STATISTICS:
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr may not look up {name!r}")
    return name


def _empty_bytes() -> bytes:
    """Stand for `builtins.bytes`, which pickles of protocol 2 call for b"", the data of an empty array."""
    return b""


def _path(*parts: str) -> str:
    """Stand for `pathlib.Path`: the text, which nothing opens."""
    return posixpath.join("", *map(str, parts))


ALLOWED_GLOBALS: list[tuple[Callable[..., Any], str]] = [
    (DtypeRecord, "numpy.dtype"),
    (ArrayRecord, "numpy.ndarray"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # NumPy 1
    (_reconstruct, "numpy._core.multiarray._reconstruct"),  # NumPy 2
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (HistoryBufferRecord, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_statistics_name, "builtins.getattr"),
    (_empty_bytes, "builtins.bytes"),
    (OrderedDict, "yacs.config.CfgNode"),  # a dict of settings, next to the weights of the official classifiers
    (Settings, "argparse.Namespace"),
    (_path, "pathlib.PosixPath"),
    (_path, "pathlib.WindowsPath"),
    (_path, "pathlib._local.PosixPath"),  # Python 3.13
    (_path, "pathlib._local.WindowsPath"),
]


def restore(value: Any, _seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Put the real objects in the place of all records, inside dictionaries and lists in place."""
    # A container may hold itself, and many the same tuple. With each result its source, or its id would be used again.
    seen = {} if _seen is None else _seen
    if isinstance(value, (DtypeRecord, ArrayRecord, HistoryBufferRecord)):
        return value.restore()
    if not isinstance(value, (dict, list)) and type(value) is not tuple:
        return value
    if id(value) in seen:
        return seen[id(value)][1]
    if type(value) is tuple:
        result = tuple(restore(item, seen) for item in value)
        seen[id(value)] = value, result
        return result
    seen[id(value)] = value, value
    container: Any = value  # either kind is written to by its keys
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        container[key] = restore(item, seen)
    return value
