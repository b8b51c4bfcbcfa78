"""The registered backbones, and small ones of each."""

from typing import Any

import pytest
from mmdet.registry import MODELS
from torch import Tensor, nn

from localvit_det.backbones import LocalViT, MSGTransformer
from localvit_det.layers.messenger import join_windows

FAMILIES = sorted(
    name for name, cls in MODELS.module_dict.items() if isinstance(cls, type) and issubclass(cls, LocalViT)
)
# Two that share little; the others are for the slow tests, where each takes its time.
FEW = [
    pytest.param(name, marks=() if name in ("MSGTransformer", "ShuffleTransformer") else pytest.mark.slow)
    for name in FAMILIES
]


class Detector(nn.Module):
    """A backbone and something behind it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def build(family: str, **options) -> LocalViT:
    """A backbone with the real structure and small numbers."""
    arch = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "drop_path_rate": 0.0}
    if "num_heads" not in MODELS.get(family).accepted_arguments():
        del arch["num_heads"]
    # Output norms by name: not all families have them by default.
    options = {"window_size": 3, "mlp_ratio": 2.0, "out_norm_cfg": "default", **options}
    return MODELS.build({"type": family, "arch": arch, **options})


def build_short(family: str, stages: int = 2, **options) -> LocalViT:
    """One of two stages, the first with both kinds of blocks: for compilers, which think about each block for long."""
    settings = MODELS.get(family).default_arguments()
    # Of those for each of four stages: that of an early stage, and that of the last.
    fewer = {name: (value[1], value[-1]) for name, value in settings.items() if isinstance(value, tuple)}
    own = {**fewer, "depths": (2, 1), "out_indices": (0, 1)}
    return build(family, **{name: value[:stages] for name, value in own.items()}, **options)


def block_input(net: LocalViT, x: Tensor) -> Any:
    """A map as the blocks of the first stage take it: some families carry more than the map."""
    return net.stem.accompany(x) if isinstance(net, MSGTransformer) else x


def mixer_inputs(net: LocalViT, x: Tensor) -> tuple[Any, ...]:
    """A map as the mixers of the first stage take it."""
    return (join_windows(*net.stem.accompany(x), net.window_size), x) if isinstance(net, MSGTransformer) else (x,)
