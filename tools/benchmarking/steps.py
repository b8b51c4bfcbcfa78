"""One inference or training step of one network, ready to be checked, timed and weighed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from .complexity import count_multiply_adds
from .memory import held_bytes
from .rows import Row

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Largest difference from the network's own eager fp32 output, relative to that output's norm.
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class Setting:
    """What all rows of a table share."""

    mode: str  # 'inference' or 'training'
    size: tuple[int, int]  # height, width
    batch: int
    device: str


@dataclass(frozen=True)
class Variant:
    """How a row is run."""

    row: Row
    dtype: str  # a key of DTYPES
    execution: str  # 'eager' or 'compile'


class Step:
    """A network with a batch of images; calling it does one step.

    Inference is a forward pass in eval mode without gradients; training is forward and backward in train mode,
    with given gradients of the maps in a loss's place, and ends with dropping the parameters' gradients.

    Args:
        variant: The network and how it is run; bf16 means autocast.
        setting: Mode, size of the images and device.
        fuse: Fold BatchNorm for inference, where the network offers `fuse()`.
    """

    def __init__(self, variant: Variant, setting: Setting, fuse: bool = True) -> None:
        self.training = setting.mode == "training"
        self.net = variant.row.build().to(setting.device)
        self.net.train(self.training)
        if fuse and not self.training and hasattr(self.net, "fuse"):
            self.net = self.net.fuse()
        self.image = make_image(setting)
        if variant.row.channels_last:
            self.image = self.image.contiguous(memory_format=torch.channels_last)
        # Without dynamic shapes: every size gets its own best code, and each is measured by itself.
        compiled = variant.execution == "compile"
        self._forward = torch.compile(self.net, dynamic=False) if compiled else self.net
        self._dtype, self._device = DTYPES[variant.dtype], setting.device
        self._gradients: list[Tensor] = []

    def __call__(self) -> None:
        """Do one step."""
        outputs = self.forward()
        if self.training:
            if not self._gradients:
                self._gradients = [torch.randn_like(output) for output in outputs]
            torch.autograd.backward(outputs, self._gradients)
            self.net.zero_grad(set_to_none=True)

    def forward(self) -> list[Tensor]:
        """All maps that the network returns, in whatever container."""
        with self._autocast(), torch.set_grad_enabled(self.training):
            return tensors_in(self._forward(self.image))

    def checkable_outputs(self) -> list[Tensor]:
        """The maps without what makes two runs of a training step differ, see `still`."""
        with still(self.net):
            return [output.detach().float() for output in self.forward()]

    def saved_bytes(self) -> int:
        """Bytes kept for backward and in the outputs, see `held_bytes`."""
        return held_bytes(self.forward, self._device)

    def _autocast(self) -> AbstractContextManager:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device, self._dtype)


@dataclass(frozen=True)
class Reference:
    """What a network gives in plain eager fp32, and what it costs."""

    outputs: list[Tensor]
    multiply_adds: int
    parameters: int


def make_reference(row: Row, setting: Setting) -> Reference:
    """Run a row once, unfused; its multiply-adds are counted on the way."""
    net = row.build().to(setting.device)
    net.eval()  # not chained: MMDetection's Swin returns None here
    image, outputs = make_image(setting), []
    multiply_adds = count_multiply_adds(lambda: outputs.extend(tensors_in(net(image))))
    return Reference([o.float() for o in outputs], multiply_adds, sum(p.numel() for p in net.parameters()))


def make_image(setting: Setting) -> Tensor:
    """The same random batch of images each time: (batch, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(setting.batch, 3, *setting.size, generator=generator).to(setting.device)


def tensors_in(outputs: object) -> list[Tensor]:
    """The tensors of a tuple, list, dict or tensor, in order."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def relative_error(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of a map from the expected one, relative to its norm; infinite where shapes differ."""
    if [o.shape for o in outputs] != [e.shape for e in expected]:
        return float("inf")
    errors = [(o - e).norm() / e.norm() for o, e in zip(outputs, expected, strict=True)]
    return max(float(error) if error.isfinite() else float("inf") for error in errors)


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """Hold BatchNorm statistics and drop nothing at random, while the network stays in its mode.

    A training step then gives the maps of eval mode through the code of train mode. Drop layers are known by
    their names, since every library has its own class.
    """
    modules = [module for module in net.modules() if module.training and _is_random(module)]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


def _is_random(module: nn.Module) -> bool:
    name = type(module).__name__
    return isinstance(module, _BatchNorm) or "Drop" in name or "Stochastic" in name
