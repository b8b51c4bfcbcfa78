"""Mixed precision on CPUs, where MMEngine has it on accelerators only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuBf16OptimWrapper(OptimWrapper):
    """Runs the forward pass in bfloat16 where that is safe.

    Coordinates stay in fp32 (:mod:`localvit_det.compat.coordinates`). No loss is scaled: bfloat16 has the range of
    float32. It pays on processors that compute in bfloat16 (AMX, AVX512-BF16) and is slower on others.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Casts inside of autocast, besides what the parent does for accumulation."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
