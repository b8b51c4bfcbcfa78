"""Which globals an MMEngine checkpoint may name, and the inert objects that stand for them.

PyTorch's `weights_only` unpickler calls whatever is on its allow-list with arguments from the file. NumPy's
own helpers are not safe for that: `numpy.dtype.__setstate__` accepts flags that make floats pass for
pointers. So every allowed name leads to a record that only keeps its arguments, and the real objects are
made afterwards, by `restore`, from checked values. The list was read from checkpoints of MMEngine 0.10.7;
the failure that it mends is https://github.com/open-mmlab/mmengine/issues/1655.
"""

import pickle
import posixpath
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

STATISTICS = frozenset({"min", "max", "current", "mean"})


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
        """The NumPy type."""
        return self.dtype


class ArrayRecord:
    """Stands for `numpy.ndarray`."""

    def __setstate__(self, state: tuple) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state

    def restore(self) -> np.ndarray:
        """The array, with memory of its own."""
        return np.ndarray(self.shape, self.dtype.restore(), self.data, order="F" if self.fortran else "C").copy()


class HistoryBufferRecord:
    """Stands for MMEngine's `HistoryBuffer`, the logged values of one scalar."""

    def __setstate__(self, state: dict) -> None:
        self.state = state

    def restore(self) -> HistoryBuffer:
        """The buffer; its table of statistics comes from the class, never from the file."""
        return HistoryBuffer(
            self.state["_log_history"].restore(),
            self.state["_count_history"].restore(),
            self.state["max_length"],
        )


class Settings(dict):
    """Stands for `argparse.Namespace`, which timm and the official codes of DeiT's kind save with the weights."""

    def __setstate__(self, state: dict) -> None:
        self.update(state)


RECORDS = (DtypeRecord, ArrayRecord, HistoryBufferRecord)


def _reconstruct(array_type: type, shape: tuple, typecode: bytes) -> ArrayRecord:
    return ArrayRecord()


def _scalar(dtype: DtypeRecord, data: bytes) -> np.generic:
    return np.ndarray((), dtype.restore(), data)[()]


def _statistics_name(owner: type, name: str) -> str:
    """Stands for `builtins.getattr`, which pickles write for `HistoryBuffer.min` and its like."""
    if owner is not HistoryBufferRecord or name not in STATISTICS:
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr may not look up {name!r}")
    return name


def _empty_bytes() -> bytes:
    """Stands for `builtins.bytes`, which pickles of protocol 2 call for b"", the data of an empty array."""
    return b""


def _path(*parts: str) -> str:
    """Stands for `pathlib.Path`: the text, which nothing opens."""
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
    (OrderedDict, "yacs.config.CfgNode"),  # a dict of settings, beside the weights of the official classifiers
    (Settings, "argparse.Namespace"),
    (_path, "pathlib.PosixPath"),
    (_path, "pathlib.WindowsPath"),
    (_path, "pathlib._local.PosixPath"),  # Python 3.13
    (_path, "pathlib._local.WindowsPath"),
]


def restore(value: Any, _seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Puts the real objects in the place of all records, inside dictionaries and lists in place."""
    # A container may hold itself, and many the same tuple. With each result its source, or its id would be used again.
    seen = {} if _seen is None else _seen
    if isinstance(value, RECORDS):
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
