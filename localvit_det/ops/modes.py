"""Which of several ways to compute the same may be taken now."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


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
