"""Parameters and MACs of backbones, detectors and segmentors, counted on shapes by PyTorch's FlopCounterMode.

docs/model_zoo.md has the convention. MMEngine's `get_model_complexity_info` traces a model on real memory, and has no
rule for `scaled_dot_product_attention` and for our inhomogeneous convolution.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock

import torch
from mmdet.models import BaseDetector, DetectionTransformer, MaskFormer, TwoStageDetector
from mmdet.models.dense_heads import RTMDetInsHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from localvit_det.analysis.compare import count_macs

CLASSIFIER_SIZE = (224, 224)
DETECTOR_SIZE = (800, 1280)
BOX_PROPOSALS = 1000
MASK_PROPOSALS = 100
_LARGE = 10_000  # numbers; what reads single ones reads them from smaller tensors


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a network for one image."""

    parameters: int
    multiply_adds: int

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


def backbone_complexity(cfg: dict, size: tuple[int, int] = CLASSIFIER_SIZE) -> Complexity:
    """Return the complexity of a backbone at an image size (height, width)."""
    return _of_backbone(_shapes_only(cfg), size)[0]


def detector_complexity(cfg: dict, size: tuple[int, int] = DETECTOR_SIZE) -> tuple[Complexity, Complexity]:
    """Return the complexity of a detector's or segmentor's backbone alone, and of the whole."""
    backbone, whole = Counter().count(cfg, size)
    return backbone, whole


class Counter:
    """Counts detectors and segmentors; what several have in common, a backbone or all after it, is counted once."""

    def __init__(self) -> None:
        self._backbones: dict[str, tuple[Complexity, tuple[Tensor, ...]]] = {}
        self._heads: dict[str, Complexity] = {}

    def count(self, cfg: dict, size: tuple[int, int], *more: tuple[int, int]) -> tuple[Complexity, ...]:
        """Return the complexity of the backbone alone, of the whole, and of the backbone at more sizes."""
        model = cache(lambda: _shapes_only(cfg))
        alone = _key(cfg["backbone"], without=("drop_path_rate", "init_cfg"))
        rest = _key(cfg, without=("backbone", "train_cfg"))  # before the model is built, which adds to its config
        for one in (size, *more):
            if (key := f"{alone} {one}") not in self._backbones:
                self._backbones[key] = _of_backbone(model().backbone, one)
        backbone, maps = self._backbones[f"{alone} {size}"]
        if (key := f"{rest} {[tuple(one.shape) for one in maps]} {size}") not in self._heads:
            macs = _count(lambda: _run_heads(model(), maps, size))
            self._heads[key] = Complexity(_parameters(model()) - backbone.parameters, macs)
        return backbone, backbone + self._heads[key], *(self._backbones[f"{alone} {one}"][0] for one in more)


def _key(cfg: dict, without: Sequence[str]) -> str:
    """Return what tells parts apart: their settings, without those that do not count."""
    return json.dumps({name: value for name, value in cfg.items() if name not in without}, default=str)


class _ShapesOfProducts(TorchDispatchMode):
    """Replace on the CPU what the counter counts, and what makes large floats of floats, by any numbers of its shape.

    The rest runs, as it reads values: sizes and places.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        large = any(one.numel() > _LARGE for one in tensors) and all(map(torch.is_floating_point, tensors))
        if large or func.overloadpacket in flop_registry:
            on_meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs or {}))
            found = func(*on_meta[0], **on_meta[1])
            if all(one.is_floating_point() for one in tree_leaves(found) if isinstance(one, Tensor)):
                return tree_map_only(Tensor, _any_numbers, found)
        return func(*args, **(kwargs or {}))


def _count(run: Callable[[], object]) -> int:
    """Count the MACs of `run`. Norms have none, and PyTorch takes a third of the time to work out their shapes."""
    with mock.patch.multiple(torch, batch_norm=_given, group_norm=_given, layer_norm=_given):
        return count_macs(run)


def _given(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def _of_backbone(backbone: nn.Module, size: tuple[int, int]) -> tuple[Complexity, tuple[Tensor, ...]]:
    """Count a backbone; its feature maps come along."""
    maps: list[Tensor] = []
    macs = _count(lambda: maps.extend(backbone(_image(size))))
    return Complexity(_parameters(backbone), macs), tuple(maps)


def _shapes_only(cfg: dict) -> BaseDetector:
    with torch.device("meta"), mock.patch("torch.linspace", partial(torch.linspace, device="cpu")):
        model = MODELS.build(cfg)  # drop path rates, linspaced in constructors, need values
    model.eval()  # not chained: MMDetection's Swin returns None here
    return model


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _image(size: tuple[int, int]) -> Tensor:
    return torch.empty(1, 3, *size, device="meta")


def _any_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu")


def _run_heads(model: BaseDetector, maps: tuple[Tensor, ...], size: tuple[int, int]) -> None:
    """Neck and heads without post-processing; RoI heads get features of the right shape instead of real ones."""
    if isinstance(model, TwoStageDetector):
        _run_two_stages(model, model.neck(maps))
    elif isinstance(model, (DetectionTransformer, MaskFormer)):  # they read sizes and places from tensors
        model.to_empty(device="cpu")
        for tensor in model.state_dict().values():
            tensor.zero_()
        with _ShapesOfProducts():
            _run_one_stage(model, tuple(map(_any_numbers, maps)), size)
    else:
        _run_one_stage(model, maps, size)


def _run_one_stage(model: BaseDetector, maps: tuple[Tensor, ...], size: tuple[int, int]) -> None:
    sample = DetDataSample(metainfo={"img_shape": size, "batch_input_shape": size})
    features = model.neck(maps) if model.with_neck else maps
    with mock.patch.object(model, "extract_feat", return_value=features):
        found = model(_image(size), [sample], mode="tensor")
    head = getattr(model, "bbox_head", None)
    if isinstance(head, RTMDetInsHead):  # its masks: convolutions with kernels of each object
        mask_features = found[-1][0]  # C×H×W
        kernels, priors = (mask_features.new_empty(MASK_PROPOSALS, width) for width in (head.num_gen_params, 4))
        head._mask_predict_by_feat_single(mask_features, kernels, priors)


def _run_two_stages(model: TwoStageDetector, maps: tuple[Tensor, ...]) -> None:
    model.rpn_head(maps)
    if getattr(model, "with_semantic_head", False):
        model.semantic_head(maps)
    roi_head = model.roi_head
    parts = [(roi_head.bbox_head, roi_head.bbox_roi_extractor, BOX_PROPOSALS)]
    if roi_head.with_mask:
        parts.append((roi_head.mask_head, roi_head.mask_roi_extractor, MASK_PROPOSALS))
    for heads, extractors, proposals in parts:
        for head, extractor in zip(_stages(heads), _stages(extractors), strict=True):
            side = extractor.roi_layers[0].output_size
            head(maps[0].new_empty(proposals, extractor.out_channels, *side))


def _stages(module: nn.Module) -> list[Any]:
    """Return the stages of a cascade, or the only one."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]
