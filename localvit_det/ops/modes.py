"""Which of several ways to compute the same may be taken now."""

from __future__ import annotations

import torch
from torch import Tensor


# PyTorch documents `torch.jit.is_tracing`, and does not declare it to checkers of types.
def traced() -> bool:
    """Whether a compiler, an exporter or a tracer records what runs, which should be plain operators."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def exported() -> bool:
    """Whether what is recorded becomes a model for other runtimes, which may know plain operators only."""
    # Before PyTorch 2.7 an exporter says that it is a compiler.
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def cpu_inference(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU, and nothing is recorded for gradients or by a tracer."""
    return x.is_cpu and not torch.is_grad_enabled() and not traced()
