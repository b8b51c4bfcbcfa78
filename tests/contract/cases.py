"""What cases are made of."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Makes a new network with random weights, in train mode, which takes images (B, 3, 64, 64) and returns feature maps.
# Its options are `out_indices` (stages whose feature maps are returned), and settings that not every network has, which
# cases give by `with_options`.
MakeNet = Callable[..., nn.Module]
Case = Callable[[MakeNet], None]

CASES: dict[str, Case] = {}


class NotApplicable(Exception):
    """What a case is about is nothing that this network has."""


def case(function: Case) -> Case:
    """Enter a case under its name; the first line of its docstring is its row in tables."""
    assert function.__name__ not in CASES, function.__name__
    CASES[function.__name__] = function
    return function


def with_options(make_net: MakeNet, **options: Any) -> nn.Module:
    """A network with settings that not every family has."""
    try:
        return make_net(**options)
    except TypeError as error:
        raise NotApplicable(f"no {', '.join(options)}") from error


def image(batch: int = 2, seed: int = 5) -> Tensor:
    """Images of shape (batch, 3, 64, 64)."""
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def maps(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The feature maps, as a list."""
    out = net(x)
    return [out] if isinstance(out, Tensor) else list(out)


def total(features: Sequence[Tensor]) -> Tensor:
    """A scalar that depends on every element, each with its own weight."""
    generator = torch.Generator().manual_seed(3)
    return sum((m * torch.randn(m.shape, generator=generator).to(m)).sum() for m in features)


def same(net: nn.Module, other: nn.Module) -> None:
    """Two networks compute the same bits in eval mode."""
    with torch.no_grad():
        for a, b in zip(maps(net.eval(), image()), maps(other.eval(), image()), strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b, rtol=0, atol=0)
