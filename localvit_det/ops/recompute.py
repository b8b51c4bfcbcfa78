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
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint


# PyTorch documents `torch.jit.is_tracing`, and does not declare it to checkers of types.
def traced() -> bool:
    """Whether a compiler, an exporter or a tracer records what runs, which should be plain operators."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def exported() -> bool:
    """Whether what is recorded becomes a model for other runtimes, which may know plain operators only."""
    # Before PyTorch 2.7 an exporter says that it is a compiler.
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work, which knows no addresses, memory formats and saved tensors."""
    return torch._C._are_functorch_transforms_active()


def cpu_inference(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU, and nothing is recorded for gradients, by a tracer or a transform of `torch.func`."""
    return x.is_cpu and not torch.is_grad_enabled() and not traced() and not transformed()


def channels_last(x: Tensor) -> Tensor:
    """Return a feature map (B, C, H, W) in channels-last memory; as it is under transforms, which know one format."""
    return x if transformed() else x.contiguous(memory_format=torch.channels_last)


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module is no more than what its class and its parameters say.

    It is not where somebody listens (hooks, which the older `weight_norm` and pruning are, too), where parameters are
    computed (parametrizations) or of another kind (quantized ones), or where `forward` was replaced.
    """
    return not any(is_altered(part) for part in module.modules())


def is_altered(module: nn.Module) -> bool:
    """Whether a module is not :func:`is_plain` by itself, whatever is in it."""
    listened = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(listened) or _has_any_global_hook() or is_parametrized(module) or "forward" in vars(module):
        return True
    return any(is_traceable_wrapper_subclass(parameter) for parameter in module.parameters(recurse=False))


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
    ``torch.utils.checkpoint`` would do. Under transforms of `torch.func` activations are kept.
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
