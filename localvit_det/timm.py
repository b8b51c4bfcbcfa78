"""The backbones as models of timm (the extra `timm`), once this is imported: `timm.create_model("localvit_gg_tiny")`.

Every size of every registered family is `localvit_{short name}_{size}`, a classifier as the paper has it. Not imported
by `import localvit_det`: timm takes a second, and few need it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .backbones.base import LocalViT
from .checkpoint.networks import families, official_file
from .errors import CheckpointError
from .layers import Stage, build_norm, built_on
from .requirements import require

require("timm")

from timm.layers.classifier import ClassifierHead  # noqa: E402
from timm.layers.helpers import to_2tuple  # noqa: E402
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model  # noqa: E402
from timm.models._features import feature_take_indices  # noqa: E402 - where timm's own networks have it from

__all__ = ["Classifier"]  # timm adds the names of the models


class Classifier(nn.Module):
    """A backbone with the norm, pooling and linear layer of its published classifier, under timm's names.

    Args:
        family: The backbone's class, and `arch` its size.
        num_classes: Of the head; 0 for none, which leaves pooled features.
        img_size: Side, or height and width, that timm's data pipelines resize to; the network takes any.
        global_pool: Kind of pooling; '' leaves the feature map.
        drop_rate: Dropout before the linear layer; `proj_drop_rate` is that inside the backbone.
        device: Where modules are built; None for the current default.
        settings: Other arguments of the backbone.
    """

    def __init__(
        self,
        family: type[LocalViT],
        arch: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.img_size = num_classes, in_chans, img_size
        with built_on(device):
            self.backbone = family(arch, in_channels=in_chans, drop_rate=proj_drop_rate, out_norm_cfg=None, **settings)
            width = self.num_features = self.head_hidden_size = self.backbone.channels[-1]
            self.norm = build_norm(self.backbone.norm_cfg, width) if family.classifier_norm else nn.Identity()
            self.head = ClassifierHead(width, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        info = self.backbone.feature_info
        of_stages = zip(info.all_channels, info.strides, range(len(info.strides)), strict=True)
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"backbone.stages.{stage}"}
            for channels, stride, stage in of_stages
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/32⌉, ⌈W/32⌉)."""
        return self.norm(self.backbone(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, h, w) -> logits (B, classes), or pooled features (B, C)."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> feature maps (B, C_i, ⌈H/s_i⌉, ⌈W/s_i⌉), and what `forward_features` returns.

        Args:
            indices: Stages; the last n for a number n, all for None.
            norm: Apply the classifier's norm to the last stage's.
            stop_early: Without effect: what is not computed is what `prune_intermediate_layers` has taken away.
            intermediates_only: Leave the features out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt='{output_fmt}': these networks have feature maps as 'NCHW' only.")
        stages = self.backbone.out_indices
        taken, _ = feature_take_indices(len(stages), indices)
        maps = list(self.backbone(x))
        last = self.norm(maps[-1])
        found = [last if norm and i == len(stages) - 1 else maps[i] for i in taken]
        return found if intermediates_only else (last, found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take away what the stages `indices` do not need; return them."""
        taken, last = feature_take_indices(len(self.backbone.stages), indices)
        ends_early = last < len(self.backbone.stages) - 1
        if ends_early:
            self.backbone.stages = self.backbone.stages[: last + 1]
            self.backbone.out_indices = tuple(range(last + 1))
            self.num_features = self.head_hidden_size = self.backbone.channels[last]
        if prune_norm or ends_early:
            self.norm = nn.Identity()
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new linear layer; 0 classes for none."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in backward instead of keeping what is inside them."""
        for module in self.backbone.modules():
            if isinstance(module, Stage):
                module.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order the parameters from the image to the head, by stages or by blocks."""
        fine = [(r"^backbone\.stages\.(\d+)\.blocks\.(\d+)", None), (r"^backbone\.stages\.(\d+)\.downsample", (0,))]
        blocks = r"^backbone\.stages\.(\d+)" if coarse else [*fine, (r"^norm", (99999,))]
        return {"stem": r"^backbone\.stem", "blocks": blocks}


def _pretrained_cfg(family: type[LocalViT]) -> dict[str, Any]:
    """Return how images are prepared, as the official codes do, and the names of the first and the last layer."""
    with torch.device("meta"):
        stem = family(depths=(1, 1, 1, 1)).stem
    first = next(name for name, module in stem.named_modules() if isinstance(module, nn.Conv2d))
    common = {"crop_pct": 0.9, "interpolation": "bicubic", "pool_size": (7, 7), "classifier": "head.fc"}
    names = {"first_conv": f"backbone.stem.{first}", "paper_name": family.paper[0], "origin_url": family.paper[1]}
    return {**common, **names}


def _register(name: str, family: type[LocalViT], arch: str) -> None:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            line = official_file(family, {"arch": arch})
            address = line.direct or line.address if line else ""
            which = f"the official ones ({address})" if address else "your own, since its authors released none,"
            raise CheckpointError(
                f"timm has no weights of {name}: build it without pretrained=True, and load {which} by "
                "localvit_det.checkpoint.loading.load_backbone(model.backbone, FILE)."
            )
        # What timm's data pipelines prepare; the networks themselves take any size.
        size = options.get("in_chans", 3), *to_2tuple(options.get("img_size", 224))
        return build_model_with_cfg(
            Classifier,
            name,
            pretrained=False,
            pretrained_cfg_overlay={"input_size": size, **(options.pop("pretrained_cfg_overlay", None) or {})},
            feature_cfg={"feature_cls": "getter", "out_indices": (0, 1, 2, 3)},
            family=family,
            arch=arch,
            **options,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Build {family.title or family.__name__} {arch}."
    globals()[name] = register_model(create)


default_cfgs: dict[str, Any] = {}  # where timm looks for what it registers
for _family in families():
    if vars(_family).get("short_name"):
        _cfg = _pretrained_cfg(_family)
        for _arch in _family.arch_settings:
            _name = f"localvit_{_family.short_name}_{_arch}"
            default_cfgs |= generate_default_cfgs({_name: _cfg})
            _register(_name, _family, _arch)
