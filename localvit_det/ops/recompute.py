"""Keep less for backward: recompute cheap outputs instead of keeping them, or whole blocks.

Norms and activations cost next to nothing compared with the matrix products that follow them, but a product keeps its
input for backward, and so each of them would cost a feature map of memory.

A module that somebody listens to (hooks) or whose parameters are computed (parametrizations) is not recomputed: its
hooks fire once. Neither is anything under a transform of `torch.func` (grad, vmap, jacrev, ...), which cannot know.
Whole blocks under ``with_cp`` run twice, as with any `torch.utils.checkpoint`, and their hooks fire twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .modes import is_plain, transformed

# Whether nothing is recomputed one by one: switched off by a setting, or inside an activation checkpoint.
_off: ContextVar[bool] = ContextVar("off", default=False)


@dataclass(frozen=True)
class _Recipe:
    """How to recompute the output of a module, without side effects."""

    module: nn.Module
    x: Tensor
    autocast: dict[str, Any]

    def __call__(self) -> Tensor:
        module = self.module
        with torch.no_grad(), torch.autocast(**self.autocast):
            if type(module) is nn.BatchNorm2d and module.training:
                # The batch's own statistics again, without counting the batch twice in the running ones.
                return F.batch_norm(self.x, None, None, module.weight, module.bias, training=True, eps=module.eps)
            return module.forward(self.x)  # without hooks that were registered meanwhile


class _Recomputed:
    """A context in which one tensor is kept for backward as the recipe that made it."""

    def __init__(self, out: Tensor, recipe: _Recipe) -> None:
        # Holding the output keeps its address from being used for another tensor meanwhile.
        self._out, self._recipe = out, recipe
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        del self._out, self._recipe

    def _pack(self, tensor: Tensor) -> Tensor | _Recipe:
        out = self._out
        same = _same_memory(tensor, out) and tensor.dtype == out.dtype
        return self._recipe if same and (tensor.shape, tensor.stride()) == (out.shape, out.stride()) else tensor

    @staticmethod
    def _unpack(kept: Tensor | _Recipe) -> Tensor:
        return kept() if isinstance(kept, _Recipe) else kept


def _same_memory(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of any shape start at the same place; tensors without data (meta, fake) have places, too."""
    places = [(tensor.untyped_storage()._cdata, tensor.storage_offset()) for tensor in (x, y)]
    return places[0] == places[1]


def recomputed(cheap: nn.Module, then: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute ``then(cheap(x))`` and recompute the output of ``cheap`` in backward instead of keeping it.

    Args:
        cheap: A norm or an activation; deterministic. One that works in place keeps its output.
        then: What follows, and would keep its input.
        x: The input of any shape, which must not be changed later.

    Returns:
        ``then(cheap(x))``. Where nothing is recorded, inside an activation checkpoint (which keeps nothing anyway), for
        a compiler (which decides by itself), under transforms of `torch.func` and where ``cheap`` has hooks or
        parametrizations that is all there is to it.
    """
    out = cheap(x)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _off.get() or transformed():
        return then(out)
    if not _repeatable(cheap):
        return then(out)
    if _same_memory(out, x):  # an activation with inplace=True: recomputing would apply it twice
        return then(out)
    kind = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"  # meta has none
    autocast = {
        "device_type": kind,
        "enabled": torch.is_autocast_enabled(kind),
        "dtype": torch.get_autocast_dtype(kind),
    }
    with _Recomputed(out, _Recipe(cheap, x, autocast)):
        return then(out)


def _repeatable(cheap: nn.Module) -> bool:
    """Whether a second call returns the same and has no side effects."""
    # Other processes take part in a synchronised norm, and may not be there in backward; RReLU draws other slopes then.
    if isinstance(cheap, (nn.SyncBatchNorm, nn.Identity, nn.RReLU)) or not is_plain(cheap):
        return False
    # What a recipe computes is nn.BatchNorm2d's; another one would count the batch twice.
    return not (isinstance(cheap, _BatchNorm) and cheap.training) or type(cheap) is nn.BatchNorm2d


def recompute_activations(enabled: bool) -> AbstractContextManager:
    """Return a context in which :func:`recomputed` recomputes, or keeps all outputs: faster, in more memory."""
    return nullcontext() if enabled or torch.compiler.is_compiling() else _without_recomputing()


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping its activations; recompute them in backward.

    The second run must not count a batch twice in BatchNorm's running statistics, which plain
    ``torch.utils.checkpoint`` would do.

    Args:
        block: The block.
        x: Feature map of shape (B, C, H, W).

    Returns:
        What ``block(x)`` returns; under transforms of `torch.func` its activations are kept.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return _without_recomputing(), _SecondRun(block)

    if transformed():
        return block(x)
    if torch.compiler.is_compiling():
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_recomputing() -> Iterator[None]:
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


class _SecondRun(ExitStack):
    """The context of :func:`_second_run`, entered by each backward pass: `retain_graph=True` allows several."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def __enter__(self) -> _SecondRun:
        self.enter_context(_second_run(self._block))
        return self


@contextmanager
def _second_run(module: nn.Module) -> Iterator[None]:
    # With momentum 0 the same tensors are saved for backward as in the first run, which checkpointing demands.
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        with _without_recomputing():
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.copy_(count)
