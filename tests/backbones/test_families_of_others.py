"""A family from outside the package: what its constructor has to do, and what is said where it does not."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from localvit_det.backbones import LocalViT, ShuffleTransformer

ARCH = {"embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "drop_path_rate": 0.0}
IMAGE = torch.zeros(1, 3, 40, 33)


class Scale(nn.Module):
    """A mixer with one number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Plain(LocalViT):
    """A family without settings of its own."""

    def __init__(self, arch: str | dict = "tiny", out_indices: Sequence[int] = (1, 2), **common: Any) -> None:
        super().__init__(arch, out_indices=out_indices, **common)
        self.build()

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        return Scale(1.0)


class WithSetting(LocalViT):
    """A family that keeps a setting, then builds."""

    def __init__(self, arch: str | dict = "tiny", factor: float = 2.0, **common: Any) -> None:
        super().__init__(arch, **common)
        self.factor = factor
        self.build()

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        return Scale(self.factor)


class Forgetful(WithSetting):
    """A family whose constructor leaves out the last step."""

    def __init__(self, arch: str | dict = "tiny", **common: Any) -> None:
        LocalViT.__init__(self, arch, **common)
        self.factor = 3.0


class WithoutConstructor(LocalViT):
    """A family that leaves all to its parent, whose constructor keeps settings only."""


class Inherited(ShuffleTransformer):
    """A published family with one more setting, kept before that family's constructor builds."""

    def __init__(self, arch: str | dict = "tiny", factor: float = 4.0, **common: Any) -> None:
        self.factor = factor
        super().__init__(arch, **common)

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        return Scale(self.factor)


@pytest.mark.parametrize(
    ("family", "options", "factor"),
    [(Plain, {}, 1.0), (WithSetting, {}, 2.0), (WithSetting, {"factor": 5.0}, 5.0), (Inherited, {}, 4.0)],
)
def test_a_family_is_built_with_its_settings(family, options, factor):
    net = family(ARCH, **options).eval()
    shapes = [(8, 10, 9), (16, 5, 5), (32, 3, 3), (64, 2, 2)]
    assert [tuple(m.shape[1:]) for m in net(IMAGE)] == [shapes[i] for i in net.out_indices]
    assert family.out_channels_of({"arch": ARCH}) == net.out_channels  # by the family's own defaults
    assert {m.factor for m in net.modules() if isinstance(m, Scale)} == {factor}
    assert set(options) <= family.accepted_arguments()


@pytest.mark.parametrize("family", [Forgetful, WithoutConstructor])
def test_a_constructor_that_does_not_build_is_named(family):
    said = rf"^{family.__name__} has no layers: give it a constructor that ends with self.build\(\)\.$"
    with pytest.raises(RuntimeError, match=said):
        family(ARCH)(IMAGE)
