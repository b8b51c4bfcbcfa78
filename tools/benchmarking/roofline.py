"""The roofline: the time that a network's multiply-adds would take as matrix products alone, on this machine, now."""

from __future__ import annotations

import torch

from .steps import DTYPES

# Stage 3 of a tiny network at 896×1344: its 56·84 tokens through the first layer of the MLP. On a GPU as many
# as a batch of 16 has, since so small a product would measure the launch of a kernel.
_TOKENS = {"cpu": 56 * 84, "cuda": 16 * 56 * 84}
_CHANNELS, _HIDDEN = 384, 1536
# A training step multiplies three times: forward, for the gradient of the input, for that of the weights.
TRAINING_FACTOR = 3


class Gemm:
    """A matrix product of a typical shape; calling it computes it once.

    Attributes:
        multiply_adds: Of one call.
    """

    def __init__(self, dtype: str, device: str) -> None:
        tokens = _TOKENS[device]
        generator = torch.Generator().manual_seed(0)
        self._left = torch.rand(tokens, _CHANNELS, generator=generator).to(device, DTYPES[dtype])
        self._right = torch.rand(_CHANNELS, _HIDDEN, generator=generator).to(device, DTYPES[dtype])
        self._out = self._left @ self._right
        self.multiply_adds = tokens * _CHANNELS * _HIDDEN

    def __call__(self) -> None:
        """Compute the product into memory that is already there, as a network's allocator would find it."""
        torch.mm(self._left, self._right, out=self._out)


def roofline_seconds(multiply_adds: int, rate: float, mode: str) -> float:
    """The roofline of one step.

    Args:
        multiply_adds: Of the forward pass.
        rate: Multiply-adds per second of the matrix product.
        mode: 'inference' or 'training'.
    """
    return multiply_adds * (TRAINING_FACTOR if mode == "training" else 1) / rate
