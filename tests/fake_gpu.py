"""A GPU of which only shapes exist: what would go wrong there goes wrong here, without one.

Tensors are fake CUDA tensors: an operator that mixes devices raises, and so does one that has to see numbers
(`.item()`, `nonzero`, boolean indexing). PyTorch's engine needs the devices of a graph; :func:`backward` walks the
graph without.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BATCH = 2  # of images; no layer has so few channels


class Watch(TorchDispatchMode):
    """Notes what a GPU would spend on moving and converting data.

    Attributes:
        moves: Copies from one device to another.
        scattered: Inputs of convolutions and BatchNorms, feature maps all, that are not channels-last, and would be
            copied before.
        casts: Feature maps that were copied into another type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: Counter[tuple[str, str]] = Counter()
        self.scattered: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self.casts = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            if source.device != out.device:
                self.moves[source.device.type, out.device.type] += 1
            self.casts += source.dtype != out.dtype and source.dim() == 4 and source.shape[0] <= BATCH
        if "convolution" in name or "batch_norm" in name:
            for x in tensors_of(args):
                if x.dim() == 4 and x.shape[0] > BATCH:
                    continue  # weights, few and small, which are kept in the usual layout
                dense = x.dim() < 4 or min(x.shape) == 1 or x.is_contiguous(memory_format=torch.channels_last)
                self.scattered[name, tuple(x.shape)] += not dense
        return out


@contextmanager
def fake_gpu(*networks: nn.Module, dtype: torch.dtype | None = None) -> Iterator[Watch]:
    """Move networks to a GPU, for good, and let tensors that are made inside be on it; with autocast to ``dtype``."""
    mode = FakeTensorMode()
    kept = [
        (tensors, name, tensor, mode.from_tensor(tensor.detach()))
        for network in networks
        for module in network.modules()
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    # Without a GPU PyTorch switches autocast off.
    there = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
    with mode, torch.device("cuda"), there, Watch() as watch:
        for tensors, name, tensor, fake in kept:
            moved = fake.to("cuda")
            tensors[name] = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
        watch.moves.clear()
        with torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
            yield watch


@torch.no_grad()
def backward(outputs: Sequence[Tensor], grads: Sequence[Tensor] | None = None) -> dict[Tensor, Tensor]:
    """Compute gradients as `torch.autograd.backward` does, and return them by parameter.

    Args:
        outputs: Any number of tensors with a graph.
        grads: Their own gradients; ones by default.
    """
    arrived: dict[Any, list[Tensor | None]] = {}  # gradients of a node's outputs
    found: dict[Tensor, Tensor] = {}

    def arrive(node: Any, index: int, grad: Tensor | None) -> None:
        if grad is None:
            return
        expected = node._input_metadata[index]
        # As the engine does: sums over what was broadcast, and casts.
        grad = (grad if grad.shape == expected.shape else grad.sum_to_size(expected.shape)).to(expected.dtype)
        sums = arrived.setdefault(node, [None] * len(node._input_metadata))
        sums[index] = grad if sums[index] is None else sums[index] + grad

    for output, start in zip(outputs, grads or [torch.ones_like(output) for output in outputs], strict=True):
        arrive(output.grad_fn, output.output_nr, start)
    with mock.patch("torch._C._current_graph_task_id", return_value=1):  # for checkpoints: one pass
        for node in _in_order([output.grad_fn for output in outputs]):
            own = arrived.pop(node, None)
            if own is None:
                continue
            if hasattr(node, "variable"):  # AccumulateGrad
                assert own[0] is not None
                found[node.variable] = own[0]
                continue
            made = node(*own) if callable(node) else node.apply(*own)  # of our own functions
            made = made if isinstance(made, tuple) else (made,)
            # Arguments of our functions that are no tensors come last.
            for (following, index), grad in zip(node.next_functions, made, strict=False):
                if following is not None:
                    arrive(following, index, grad)
    return found


def _in_order(roots: Sequence[Any]) -> list[Any]:
    """Return all nodes of a graph, each before those that take its gradients."""
    found: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((following, False) for following, _ in node.next_functions if following is not None)
    return found[::-1]


def tensors_of(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
