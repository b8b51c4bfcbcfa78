"""Keep coordinates in fp32 where mixed precision runs the layers between them in half precision.

bfloat16 counts pixels in steps of eight at 1000 and float16 in halves, but MMDetection gives boxes, priors and sampling
points the type of the feature maps: boxes of RoI features were up to 4 px off in bfloat16, and so were the proposals.
Each class here runs its own code as before, on coordinates and feature maps that are at least fp32.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def replacements() -> Iterator[tuple[type, str, Any]]:
    """Yield classes of MMDetection and MMCV, the name of a method, and what takes its place."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    from mmdet.models import dense_heads
    from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
    from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator

    for generator in (AnchorGenerator, MlvlPointGenerator):
        for name in ("single_level_grid_priors", "sparse_priors"):
            yield generator, name, _priors_in_fp32(vars(generator)[name])
    for extractor in (SingleRoIExtractor, GenericRoIExtractor):
        yield extractor, "forward", _features_in_fp32(vars(extractor)["forward"])
    # Its first layer reads how far a pixel is from the object.
    masks = "_mask_predict_by_feat_single"
    yield dense_heads.RTMDetInsHead, masks, _without_autocast(vars(dense_heads.RTMDetInsHead)[masks])
    for name in ("ConditionalDETRHead", "DABDETRHead", "DDQDETRHead", "DeformableDETRHead"):
        # They add reference points to what a layer returned, in place and so in its type.
        head = getattr(dense_heads, name)
        yield head, "forward", _without_autocast(vars(head)["forward"])
    sample = _sampled_in_fp32(MultiScaleDeformableAttnFunction.apply)
    yield MultiScaleDeformableAttnFunction, "apply", staticmethod(sample)


def _autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # 'meta' has none


def _in_fp32(x: Any) -> Any:
    """Return ``x`` with all half-precision tensors in it, and the names of such types, as fp32."""
    if isinstance(x, (tuple, list)):
        return type(x)(_in_fp32(item) for item in x)
    if isinstance(x, torch.dtype):
        return torch.float32 if x in _HALF else x
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x


def _priors_in_fp32(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make priors of at least fp32, whatever type is asked for."""

    @functools.wraps(method)
    def priors(self: Any, *args: Any, **settings: Any) -> Tensor:
        return method(self, *_in_fp32(args), **{name: _in_fp32(value) for name, value in settings.items()})

    return priors


def _features_in_fp32(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Extract from fp32 feature maps; under autocast features stay fp32, and the next layer rounds them."""

    @functools.wraps(method)
    def forward(self: Any, feats: tuple[Tensor, ...], rois: Tensor, *args: Any, **settings: Any) -> Tensor:
        found = method(self, _in_fp32(feats), _in_fp32(rois), *args, **settings)
        return found if _autocast(rois.device.type) else found.to(feats[0].dtype)

    return forward


def _without_autocast(method: Callable) -> Callable:
    """Compute the whole in fp32 where autocast would not; the weights of a model in half precision are left alone."""

    @functools.wraps(method)
    def exact(self: Any, *args: Any, **settings: Any) -> Any:
        device = next(iter((*args, *settings.values()))).device.type
        if not _autocast(device):
            return method(self, *args, **settings)
        with torch.autocast(device, enabled=False):
            return method(self, *_in_fp32(args), **{name: _in_fp32(value) for name, value in settings.items()})

    return exact


def _sampled_in_fp32(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Sample values at places of at least fp32; the result has the type of the values."""

    @functools.wraps(apply)
    def sample(value: Tensor, *args: Any) -> Tensor:
        return apply(_in_fp32(value), *_in_fp32(args)).to(value.dtype)

    return sample
