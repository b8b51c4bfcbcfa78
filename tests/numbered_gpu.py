"""A GPU that is none, with numbers: whole detectors run on it, with what depends on numbers, and each wait is counted.

Its tensors say that they are CUDA tensors, so that all code takes its branch for GPUs, and hold a tensor on the CPU,
which computes. An operator that mixes devices raises as it would on a GPU. tests/fake_gpu.py has no numbers and is for
what needs none.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fake_gpu import backward
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

import localvit_det

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
PACKAGE = Path(localvit_det.__file__).parent
OTHERS = ("mmdet", "mmcv", "mmseg", "mmengine")  # whose waits are their own
# Results whose size depends on numbers, or numbers themselves: a processor has to wait for them.
SIZED_BY_NUMBERS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
SIZED_BY_NUMBERS |= {"equal", "bincount", "nms"}
# Operators that take tensors of both: a copy waits, and an index on the CPU is copied.
CROSSING = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_"}


class OnGpu(Tensor):
    """A tensor that is on a GPU, by all that it says."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "OnGpu":
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        made = Tensor._make_wrapper_subclass(cls, numbers.size(), device=GPU, **layout)
        made.numbers = numbers
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()  # PyTorch refuses subclasses

    def new_tensor(self, data: Any, **settings: Any) -> Tensor:
        if isinstance(data, (list, tuple)):  # PyTorch reads numbers of a list past all modes
            data = tree_map_only(OnGpu, Tensor.item, data)
        return super().new_tensor(data, **settings)

    def __repr__(self) -> str:
        return f"OnGpu({self.numbers})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was called on a tensor of the pretended GPU, outside of it.")


class NumberedGpu(TorchDispatchMode):
    """Computes, and counts what a processor would wait for.

    Attributes:
        waits: By package, file and function that called the operator, and operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str, str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors((args, *kwargs.values()))
        name = func._schema.name.rpartition("::")[2]
        target = torch.device(kwargs.get("device") or (GPU if any(isinstance(x, OnGpu) for x in inputs) else CPU)).type
        _check_devices(name, inputs, args)
        if waits := _waits(name, target, inputs, args, kwargs):
            self.waits[(*_caller(), name)] += waits
        there = {key: _on_cpu(value) for key, value in kwargs.items()}
        with no_dispatch():
            out = func(*_on_cpu(args), **there)
        out = _on_gpu(out) if target == "cuda" else out
        return return_and_correct_aliasing(func, args, kwargs, out) if func._schema.is_mutable else out


def _tensors(x: Any) -> list[Tensor]:  # PyTorch's trees take longer than the operators
    if isinstance(x, (list, tuple)):
        return [tensor for part in x for tensor in _tensors(part)]
    return [x] if isinstance(x, Tensor) else []


def _on_cpu(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(map(_on_cpu, x))
    return x.numbers if isinstance(x, OnGpu) else CPU if isinstance(x, torch.device) else x


def _on_gpu(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(map(_on_gpu, x))
    return OnGpu(x) if isinstance(x, Tensor) else x


def _check_devices(name: str, inputs: list[Tensor], args: Any) -> None:
    """Raise where a GPU would: numbers without a dimension may come from the CPU, and an index."""
    there = [x for x in inputs if isinstance(x, OnGpu)]
    here = [x for x in inputs if not isinstance(x, OnGpu) and (x.dim() or name in ("cat", "stack"))]
    if name in CROSSING and (name.startswith(("copy", "_to")) or isinstance(args[0], OnGpu)):
        here = [x for x in args[2:3] if not isinstance(x, OnGpu) and x.dim()] if name.startswith("index_put") else []
    if there and here:
        raise RuntimeError(f"{name}: tensors on the GPU {[*map(_shape, there)]} and on the CPU {[*map(_shape, here)]}.")


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _waits(name: str, target: str, inputs: list[Tensor], args: Any, kwargs: Any) -> int:
    if not any(isinstance(x, OnGpu) for x in inputs) and target == "cpu":
        return 0
    if name in SIZED_BY_NUMBERS:
        return 1
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        target = args[0].device.type if name == "copy_" else target
        queued = target == "cuda" and (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        return source.device.type != target and not queued
    if name.startswith("index") and name in CROSSING:
        given = [x for x in args[1] if x is not None]
        masks = [x.dtype in (torch.bool, torch.uint8) for x in given]
        if name != "index" and all(masks) and args[2].numel() == 1 and not isinstance(args[2], OnGpu):
            return 0  # of a number in a mask: masked_fill
        return sum(mask or not isinstance(x, OnGpu) for mask, x in zip(masks, given, strict=True))
    return name == "repeat_interleave" and kwargs.get("output_size") is None


def _caller() -> tuple[str, str, str]:
    """Return the package, file and function of the innermost frame that is not PyTorch's or a test's."""
    frame = sys._getframe(2)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        for package in ("localvit_det", *OTHERS):
            if package in parts[:-1]:
                start = len(parts) - parts[::-1].index(package)
                return package, "/".join(parts[start:]), frame.f_code.co_name
        frame = frame.f_back
    return "", "", ""


def _grad(output: Tensor, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    found = backward([output], [grad])
    return [found[x] for x in inputs]


@contextmanager
def numbered_gpu(*networks: nn.Module) -> Iterator[NumberedGpu]:
    """Pretend that there is a GPU; networks are moved to it, for good."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())  # keeps PyTorch from looking for a GPU, and sees no operator
        gpu = stack.enter_context(NumberedGpu())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its operators are not for CPUs
        for name, value in _WITHOUT_A_GPU.items():
            stack.enter_context(mock.patch(name, value))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        for network in networks:
            network.to(GPU)
        gpu.waits.clear()
        yield gpu


_WITHOUT_A_GPU = {
    "torch.autograd.grad": _grad,  # PyTorch's engine needs the devices of a graph
    "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,  # autocast would be off
    "mmcv.ops.multi_scale_deform_attn.IS_CUDA_AVAILABLE": True,  # seen at MMCV's import
}
