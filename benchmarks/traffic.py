"""Kernels and memory traffic of backbones on a GPU, counted without one: `python -m benchmarks.traffic ROW ...`.

A training step runs on the meta device, where tensors have no data. Each operator that PyTorch dispatches counts as one
kernel, which reads every operand and writes every result once. Views and allocations are free and no cache is modelled,
so figures are for comparison. Attention counts as the kernel of GPUs, if the network asks PyTorch for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from localvit_det.cli import handle_user_errors

from .backbones import parse_row
from .results import Benchmark, Record, describe, write
from .run import make_parser, size_of
from .tables import table

GIB = 2**30
_FREE = ("empty", "lift_fresh", "scalar_tensor", "as_strided_")
_WRITE_ONLY = ("new_", "_like")  # take shape and type of a tensor, and do not read it


class Traffic(TorchDispatchMode):
    """Counts what runs in this context.

    Attributes:
        kernels: By operator.
        bytes: Read and written, by operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if "convolution" in name:
            out = _in_layout_of(args[name.endswith("backward")], out)
        read, written = _tensors((args, kwargs)), _tensors(out)
        storages = {x.untyped_storage()._cdata for x in read}
        works = func._schema.is_mutable or any(x.untyped_storage()._cdata not in storages for x in written)
        if works and written and not any(word in name for word in _FREE):
            self.kernels[name] += 1
            sources = [] if any(word in name for word in _WRITE_ONLY) else read
            moved = sum(map(_size, sources)) + sum(map(_size, written))
            if name == "index_fill_":  # of a tensor it writes the named rows alone
                moved = _size(out) * args[2].numel() // out.shape[args[1]]
            self.bytes[name] += moved
        return out

    def quantities(self, name: str) -> dict[str, list[float]]:
        """Return the sums for a record."""
        return {f"{name} kernels": [float(self.kernels.total())], f"{name} bytes": [float(self.bytes.total())]}


class GpuAttention(TorchFunctionMode):
    """Lets PyTorch's attention be the kernel of GPUs on the meta device, where it would be taken apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the kernel for attention, and anything else as it is."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not args[0].is_meta:
            return func(*args, **kwargs)
        query, key, value = args
        mask = kwargs.get("attn_mask")
        mask = None if mask is None else mask.expand(*query.shape[:3], -1)
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, mask, torch.is_grad_enabled(), kwargs.get("dropout_p", 0.0))[0]


def _in_layout_of(x: Tensor, out: Any) -> Any:
    """Return what a convolution gives for x, its map in the layout that cuDNN takes, which the meta device forgets."""
    first, *others = out if isinstance(out, tuple) else (out,)
    if first is not None and x.dim() == 4 and x.shape[3] > 1 and x.is_contiguous(memory_format=torch.channels_last):
        first = first.contiguous(memory_format=torch.channels_last)
    return (first, *others) if isinstance(out, tuple) else first


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _size(x: Tensor) -> int:
    """Return the bytes that are moved: what is expanded is there once."""
    elements = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        elements *= size if stride else 1
    return elements * x.element_size()


def count(net: nn.Module, size: tuple[int, int], batch: int = 2) -> tuple[Traffic, Traffic]:
    """Count forward and backward of a training step, what is recomputed included; moves the network to meta."""
    net.to("meta").train()
    with GpuAttention(), Traffic() as forward:
        outputs = _tensors(net(torch.empty(batch, 3, *size, device="meta")))
    grads = [torch.empty_like(output) for output in outputs]
    with GpuAttention(), Traffic() as backward:
        torch.autograd.backward(outputs, grads)
    return forward, backward


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Count, print a table, write the sums."""
    parser = make_parser(__doc__, "traffic")
    parser.add_argument("rows", nargs="+", metavar="ROW", help="as of benchmarks.backbones")
    parser.add_argument("--size", type=size_of, default=(800, 1344))
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args(argv)
    benchmark = Benchmark(describe("cpu", args.about))
    for text in args.rows:
        row = parse_row(text)
        sums = zip(count(row.build(), args.size, args.batch), ("forward", "backward"), strict=True)
        quantities = {key: value for traffic, name in sums for key, value in traffic.quantities(name).items()}
        setting = f"{'x'.join(map(str, args.size))}, batch {args.batch}, meta"
        benchmark.records.append(Record("traffic", setting, row.label, "counted", "fp32", quantities))
    print(table(benchmark.records))
    write(args.csv, args.name, benchmark)


if __name__ == "__main__":
    main()
