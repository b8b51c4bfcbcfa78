"""Which of several ways to compute the same thing may be taken now."""

from __future__ import annotations

import torch
from torch import Tensor


def traced() -> bool:
    """Whether a compiler, an exporter or a tracer is looking on, to whom the plain form should be shown."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def exported() -> bool:
    """Whether what is seen now becomes a program for elsewhere, which may know plain operators only."""
    # Before PyTorch 2.7 an exporter says that it is a compiler.
    return torch.jit.is_tracing() or getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def cpu_inference(x: Tensor) -> bool:
    """Whether ``x`` is worked on by a CPU, and nothing is recorded."""
    return x.is_cpu and not torch.is_grad_enabled() and not traced()
