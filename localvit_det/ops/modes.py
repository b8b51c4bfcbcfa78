"""Which of several ways to compute the same thing may be taken now."""

from __future__ import annotations

import torch
from torch import Tensor


def traced() -> bool:
    """Whether a compiler, an exporter or a tracer is looking on, to whom the plain form should be shown."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def cpu_inference(x: Tensor) -> bool:
    """Whether ``x`` is worked on by a CPU, and nothing is recorded."""
    return x.is_cpu and not torch.is_grad_enabled() and not traced()
