"""What a checkpoint may ask of the machine, checked before memory is taken: small files can be made to need a lot."""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# Records of torch.save are not compressed, and each tensor has a place of its own; a few names may share one.
_TIMES, _SLACK = 4, 64 << 20
_MAX_TUPLE, _MAX_TUPLE_DEPTH = 1_000_000, 100
_MAX_HEADER = 32 << 20  # bytes of JSON before the tensors of safetensors: 200,000 names
_LEGACY_PICKLES = 5  # of the format before torch 1.6: magic, protocol, system, content, keys of storages
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ")  # that hold what they take from the stack


_SMALLEST = 1 << 17  # what a tensor counts at least, with its module: thousands of small ones take seconds
_ROWS = (torch.ops.aten.arange, torch.ops.aten.linspace, torch.ops.aten.logspace)  # as many as their largest argument
_TIMES_BUILT, _BUILT_SLACK = 8, 256 << 20  # weights may be kept in half precision, and only a backbone's


class TooLarge(ValueError):
    """What a file would take is out of proportion; the message says what."""


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Check what the directory of a zip archive of `size` bytes says.

    Raises:
        TooLarge: It would inflate.
    """
    _check_total(sum(member.file_size for member in archive.infolist()), size, "unpacks to")


def check_pickle(stream: IO[bytes], count: int = _LEGACY_PICKLES) -> None:
    """Check the tuples that a stream of pickles would build, without building them.

    A tuple may hold another one twice, that one a third twice, and so on: who visits or hashes all of it never ends.

    Raises:
        TooLarge: A tuple is larger or deeper than any of a checkpoint.
    """
    try:
        for _ in range(count):
            _check_tuples(stream)
    except (ValueError, IndexError) as error:  # the end, or no pickle: torch says what is wrong with it
        if isinstance(error, TooLarge):
            raise


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


def check_tensors(content: Any, size: int) -> None:
    """Check the tensors of a file of `size` bytes: views may repeat a few numbers without end.

    Raises:
        TooLarge: A copy of them would take much more than the file.
    """
    total = 0
    for tensor in _tensors(content):
        if tensor.layout is not torch.strided:
            raise TooLarge("holds a sparse tensor")
        total += tensor.numel() * tensor.element_size()
    _check_total(total, size, "holds tensors of")


def check_safetensors(file: Path) -> None:
    """Check the length of the header, which is read whole.

    Raises:
        TooLarge: It is longer than the file, or than any.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if length > min(_MAX_HEADER, file.stat().st_size):
        raise TooLarge(f"announces a header of {length:,} bytes")


def check_openvino(file: Path) -> None:
    """Check what constants of an OpenVINO file take of the weights next to it, which many may share.

    Raises:
        TooLarge: They lie outside of the weights, or are much larger together.
        ValueError: A place or a shape is no number.
    """
    weights = file.with_suffix(".bin")
    if weights.exists() and not weights.is_file():  # reading a pipe may never end
        raise TooLarge(f"has {weights.name} for its weights, which is no file")
    size = weights.stat().st_size if weights.exists() else 0
    total = 0

    def note(name: str, values: dict[str, str]) -> None:
        nonlocal total
        if name != "data" or not {"offset", "size"} <= values.keys():
            return
        first, count = int(values["offset"]), int(values["size"])
        numbers = math.prod(int(side) for side in values.get("shape", "").split(",") if side.strip())
        if first < 0 or count < 0 or first + count > size or numbers > 8 * count:  # of one bit each
            raise TooLarge(
                f"has a constant of {numbers:,} numbers in {count:,} bytes from {first:,} on, where {weights.name} has "
                f"{size:,} bytes"
            )
        total += count

    parser = expat.ParserCreate()
    parser.StartElementHandler = note
    with file.open("rb") as stream:
        parser.ParseFile(stream)
    _check_total(total, size, "holds constants of")


class BuildLimit(TorchDispatchMode):
    """Ends the building of a model that has much larger tensors than its file of `size` bytes: it may say any width.

    Raises:
        TooLarge: Before the memory is taken.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = _TIMES_BUILT * size + _BUILT_SLACK

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Count what factories such as `torch.empty` and `torch.arange` are asked for."""
        shape: Sequence[Any] = ()
        if args and isinstance(args[0], (list, tuple)) and all(isinstance(side, int) for side in args[0]):
            shape = args[0] or (1,)
        elif func.overloadpacket in _ROWS:
            shape = [max(int(abs(one)) for one in args if isinstance(one, (int, float)) and math.isfinite(one))]
        if shape:
            self.left -= max(4 * math.prod(shape), _SMALLEST)
            if self.left < 0:
                raise TooLarge("describes a model that is many times larger than its weights")
        return func(*args, **(kwargs or {}))


def _check_total(total: int, size: int, what: str) -> None:
    if total > _TIMES * size + _SLACK:
        raise TooLarge(f"{what} {total:,} bytes, and has {size:,}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield every tensor as often as it is named; containers once."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
