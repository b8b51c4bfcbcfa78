"""Optimizers for backbones: weight decay, learning rates by layer, bfloat16 on CPUs.

MMDetection's and MMPretrain's constructors with layer decay would lose most backbones: the first knows the names of
ConvNeXt alone, the second asks the whole model for `get_layer_depth`, which no detector has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from torch import nn

from ..backbones.family import parameters_without_decay
from ..errors import ConfigError

_EXEMPT_IN_SWIN = ("absolute_pos_embed", "relative_position_bias_table")
_STAGE = re.compile(r"stages\.(\d+)\.")
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"stages\.\d+\.downsample\.")
# Behind the backbone: new in a detector, like its heads. `norm0.` is MMDetection's name in Swin.
_OUT_NORM = re.compile(r"(out_norms\.|norm\d\.)")


@OPTIM_WRAPPERS.register_module()
class CpuBf16OptimWrapper(OptimWrapper):
    """Run the forward pass in bfloat16 where that is safe; MMEngine's AmpOptimWrapper refuses CPUs.

    Coordinates stay in fp32. No loss is scaled: bfloat16 has the range of float32. It pays on processors that compute
    in bfloat16 (AMX, AVX512-BF16) and is slower on others.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield


def optim_wrappers(optim: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """Return the wrappers of all optimizers."""
    return list(optim.values()) if isinstance(optim, OptimWrapperDict) else [optim]


def accumulative_counts(optim: OptimWrapper | OptimWrapperDict) -> int:
    """Return over how many iterations gradients are accumulated at most; 1 with wrappers of other frameworks."""
    # MMEngine keeps it nowhere else.
    return max(getattr(wrapper, "_accumulative_counts", 1) for wrapper in optim_wrappers(optim))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneConstructor(DefaultOptimWrapperConstructor):
    """Leave without weight decay what a backbone says by `no_weight_decay()`: a recipe needs no list of names.

    A backbone of MMDetection has no such method: its norms, and what Swin's official code leaves out.
    `paramwise_cfg` is that of MMEngine's constructor, and `exempt`: False lets the decay hold for everything.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # MMEngine makes a group for each parameter only where there is a setting.
        super().__init__(optim_wrapper_cfg, {"custom_keys": {}, **(paramwise_cfg or {})})

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """Add a group for each parameter, those of norms and positions of backbones without decay."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix or not self.paramwise_cfg.get("exempt", True):
            return  # called by itself for each child; the names are whole only at the top
        free: dict[int, str] = {}
        for prefix, backbone in _named_backbones(module).items():
            of_family = getattr(backbone, "no_weight_decay", None)
            names = of_family() if of_family else parameters_without_decay(backbone, _EXEMPT_IN_SWIN)
            free |= {id(value): f"{prefix}.{name}" for name, value in backbone.named_parameters() if name in names}
        for group in params:
            if name := free.get(id(group["params"][0])):
                group["weight_decay"] = 0.0
                print_log(f"paramwise_options -- {name}:weight_decay=0.0", "current")  # as MMEngine does


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(BackboneConstructor):
    """Multiply the learning rate by `layer_decay` once for each layer between a parameter and the heads.

    Layer 0 is the stem, blocks follow by their depth, and downsampling belongs to the block before it. Output norms and
    everything behind the backbone learn at the full rate. What else `paramwise_cfg` says holds as well; unlike a
    `backbone` among its `custom_keys`, `backbone_rate` leaves `norm_decay_mult` in force inside the backbone.

        optim_wrapper = dict(constructor="LayerDecayConstructor", paramwise_cfg=dict(layer_decay=0.9))

    Args:
        paramwise_cfg: As of `BackboneConstructor`, and `layer_decay`, in (0, 1], or `backbone_rate`, the rate of a
            whole backbone with its output norms over that of the heads, in (0, 1]; or both.

    Raises:
        ConfigError: Both are missing, or one is no such number.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        given = {key: self.paramwise_cfg.get(key) for key in ("layer_decay", "backbone_rate")}
        for key, value in given.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if (value is None and not any(given.values())) or (value is not None and not (number and 0 < value <= 1)):
                raise ConfigError(
                    f"optim_wrapper.paramwise_cfg.{key} is {value!r}: LayerDecayConstructor needs a number above 0 and "
                    "up to 1, for example layer_decay=0.9."
                )
        self.decay = float(given["layer_decay"] or 1.0)
        self.backbone_rate = float(given["backbone_rate"] or 1.0)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """Add a group for each parameter, those of backbones with their layer's rate.

        Raises:
            ConfigError: A backbone has no blocks that could be counted.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        factors: dict[int, float] = {}
        for name, backbone in _named_backbones(module).items():
            parameters = dict(backbone.named_parameters())
            layers, depth = layers_of(parameters, downsample_first=hasattr(backbone, "out_norms"))
            if not depth:
                raise ConfigError(
                    f"LayerDecayConstructor counts blocks called stages.0.blocks.0, and {type(backbone).__name__} has "
                    "none: leave the constructor out."
                )
            of_layers = [self.backbone_rate * self.decay ** (depth + 1 - layer) for layer in range(depth + 2)]
            factors |= {id(parameters[key]): of_layers[layer] for key, layer in layers.items()}
            print_log(f"{name}: the stem learns at {of_layers[0]:.3g} times the rate of the heads.", "current")
        for group in params:
            factor = factors.get(id(group["params"][0]))
            if factor is not None:
                rate: Any = group.get("lr", self.base_lr)
                group["lr"] = rate * factor


def _named_backbones(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if name.rpartition(".")[2] == "backbone"}


def layers_of(names: Iterable[str], downsample_first: bool = True) -> tuple[dict[str, int], int]:
    """Count the layer of each of a backbone's parameters.

    Args:
        downsample_first: A stage begins with its downsampling; in MMDetection's Swin it ends with the next one's.

    Returns:
        By name 0 for the stem, 1 … D for D blocks, D + 1 for what learns at the full rate; and D.
    """
    names = list(names)
    blocks = {(int(match[1]), int(match[2])) for name in names if (match := _BLOCK.match(name))}

    def before(stage: int) -> int:
        return sum(s < stage for s, _ in blocks)

    layers = {}
    for name in names:
        stage = int(match[1]) if (match := _STAGE.match(name)) else 0
        if match := _BLOCK.match(name):
            layers[name] = before(stage) + 1 + int(match[2])
        elif _DOWNSAMPLE.match(name):
            layers[name] = before(stage if downsample_first else stage + 1)
        elif _OUT_NORM.match(name):
            layers[name] = len(blocks) + 1
        else:  # what a family has next to the blocks of a stage goes with the first of them
            layers[name] = before(stage) + 1 if _STAGE.match(name) else 0
    return layers, len(blocks)
