"""RoI heads of MMDetection for inference on a CPU: only the masks that are asked for, pasted by products."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..heads import MemoryEfficientFCNMaskHead, ends_usually, merge_cells, upsample_matrix
from ..layers import register_fused
from ..ops import cpu_inference
from ..ops.roi_align import roi_align_levels
from .dense import is_plain_linear
from .detector import Variant, at_least_fp32
from .packed import PackedLinear, PackedWeightCache, pack_conv, pack_matrix, product_dtype

# RoIs whose upsampled features, 28·28·256 numbers each, are alive at a time.
_ROIS = 8


class FusedRoIExtractor(Variant, SingleRoIExtractor):
    """A :class:`SingleRoIExtractor` that reads channels-last feature maps, all levels at once.

    Boxes stay in fp32 under autocast: bfloat16 counts pixels in steps of eight at 1000.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Feature maps (B, C, H_i, W_i) and boxes (R, 5) -> (R, C, h, w), channels-last in memory."""
        if not cpu_inference(feats[0]) or not len(rois):
            return super().forward(feats, rois, roi_scale_factor)
        rois = at_least_fp32(rois)
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None and len(feats) > 1:  # as the original: not for a single level
            rois = self.roi_rescale(rois, roi_scale_factor)
        layer = self.roi_layers[0]
        scales = [layer.spatial_scale for layer in self.roi_layers]
        return roi_align_levels(feats, rois, levels, layer.output_size, scales, layer.sampling_ratio, layer.aligned)

    def same_as(self, other: nn.Module) -> bool:
        """Whether another extractor returns the same for the same boxes."""
        return isinstance(other, FusedRoIExtractor) and _settings(self) == _settings(other)


@register_fused(SingleRoIExtractor)
def fuse_roi_extractor(extractor: SingleRoIExtractor) -> nn.Module:
    """Fuse an extractor; return the extractor itself where its layers are not all mean RoIAligns of one kind."""
    kinds = {
        (type(layer), layer.output_size, layer.sampling_ratio, layer.pool_mode, layer.aligned, layer.use_torchvision)
        if type(layer) is RoIAlign
        else None
        for layer in extractor.roi_layers
    }
    usual = len(kinds) == 1 and None not in kinds and extractor.roi_layers[0].pool_mode == "avg"
    return FusedRoIExtractor(extractor) if usual else extractor


class FusedBBoxHead(Variant, ConvFCBBoxHead):
    """A :class:`ConvFCBBoxHead` whose first dense layer reads feature maps as they lie in channels-last memory."""

    def __init__(self, head: ConvFCBBoxHead) -> None:
        super().__init__(head)
        area = 1 if head.with_avg_pool else head.roi_feat_area
        for name in ("shared_fcs", "cls_fcs", "reg_fcs"):
            # The first dense layer of a branch reads feature maps, unless shared ones have done so.
            first = area if name == "shared_fcs" or not len(head.shared_fcs) else 1
            layers = enumerate(getattr(head, name))
            packed = [PackedLinear(layer, nn.ReLU(), 1 if i else first) for i, layer in layers]
            setattr(self, name, nn.ModuleList(packed))
        for name in ("fc_cls", "fc_reg"):
            if is_plain_linear(getattr(head, name, None)):
                setattr(self, name, PackedLinear(getattr(head, name)))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Features (R, C, h, w) -> scores (R, classes + 1), deltas (R, 4·classes or 4); at least fp32."""
        if not cpu_inference(x) or not len(x):
            return super().forward(x)
        for conv in self.shared_convs:
            x = conv(x)
        if self.shared_fcs:
            x = self._dense(x, self.shared_fcs)
        found = []
        for convs, dense, predict in (
            (self.cls_convs, self.cls_fcs, self.fc_cls if self.with_cls else None),
            (self.reg_convs, self.reg_fcs, self.fc_reg if self.with_reg else None),
        ):
            y = x
            for conv in convs:
                y = conv(y)
            y = self._dense(y, dense)
            found.append(None if predict is None else at_least_fp32(predict(y)))
        return found[0], found[1]

    def _dense(self, x: Tensor, layers: nn.ModuleList) -> Tensor:
        if x.dim() > 2 and self.with_avg_pool:
            x = self.avg_pool(x)
        for layer in layers:
            x = layer(x)  # R, C', flattened; its ReLU is inside
        return x.flatten(1)  # R, C'


@register_fused(ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
def fuse_bbox_head(head: ConvFCBBoxHead) -> nn.Module:
    """Fuse a box head; return the head itself where a dense layer is no plain `nn.Linear`."""
    dense = [*head.shared_fcs, *head.cls_fcs, *head.reg_fcs]
    return FusedBBoxHead(head) if all(map(is_plain_linear, dense)) else head


class PackedUpsample(PackedWeightCache, nn.ConvTranspose2d):
    """A 2×2 transposed convolution of stride 2, computed as a product of matrices with the ReLU after it."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 2, 2, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def quarters(self, x: Tensor) -> Tensor:
        """Compute all channels of the four cells that a cell becomes, after a ReLU: (R, C, h, w) -> (R, h, w, 4·C')."""
        rows, dtype = x.permute(0, 2, 3, 1), product_dtype(x)
        bias = None if self.bias is None else self.bias.detach().repeat(4).to(dtype or self.bias.dtype)
        if dtype is None:
            return nn.functional.linear(rows, upsample_matrix(self).detach(), bias).relu_()
        weight = self.packed(dtype, lambda: pack_matrix(upsample_matrix(self).detach(), dtype))
        return torch.ops.mkldnn._linear_pointwise(rows.to(dtype), weight, bias, "relu", [], "")


class FusedMaskHead(Variant, FCNMaskHead):
    """An :class:`FCNMaskHead` with the usual last two layers that computes the mask of one class for each RoI."""

    def __init__(self, head: FCNMaskHead) -> None:
        super().__init__(head)
        self.upsample, self.conv_logits = PackedUpsample(head.upsample), pack_conv(head.conv_logits)

    def masks_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """Compute logits of one class each: features (R, C, h, w), labels (R,) -> (R, 2h, 2w), at least fp32."""
        for conv in self.convs:
            x = conv(x)
        chosen = torch.zeros_like(labels) if self.class_agnostic else labels
        weight = self.conv_logits.weight.detach().flatten(1)[chosen]  # R, C
        bias = 0 if self.conv_logits.bias is None else self.conv_logits.bias.detach()[chosen][:, None]
        logits = torch.cat([self._logits(rois, w) for rois, w in zip(x.split(_ROIS), weight.split(_ROIS), strict=True)])
        return merge_cells(at_least_fp32(logits) + bias, *x.shape[2:])

    def _logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the four cells that each cell becomes after each other: (R, C, h, w), (R, C) -> (R, h·w·4)."""
        quarters = self.upsample.quarters(x)  # R, h, w, 4·C
        return (quarters.reshape(len(x), -1, weight.shape[1]) @ weight.to(quarters.dtype)[:, :, None])[:, :, 0]

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        if not cpu_inference(bboxes):
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        masks = mask_preds[:, 0] if mask_preds.shape[1] == 1 else mask_preds[range(len(labels)), labels]
        masks = at_least_fp32(masks) if activate_map else at_least_fp32(masks).sigmoid()
        scale = bboxes.new_tensor(img_meta["scale_factor"])  # width, height
        height, width = img_meta["ori_shape"][:2]
        if rescale:
            bboxes /= scale.repeat((1, 2))
        else:
            height, width = (int(np.round(n * s.item())) for n, s in zip((height, width), scale.flip(0), strict=True))
        return paste_masks(masks, bboxes, height, width, rcnn_test_cfg.mask_thr_binary)


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Stretch the mask of each box over it, bilinearly: (R, h, w), (R, 4) -> (R, height, width), bool or uint8.

    Args:
        masks: Probabilities.
        boxes: In pixels of the image.
        height: Of the image.
        width: Of the image.
        threshold: From which probability on a pixel belongs to the mask; below 0 for probabilities as bytes.
    """
    canvas = torch.zeros(len(masks), height, width, dtype=torch.bool if threshold >= 0 else torch.uint8)
    corners = torch.cat((boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1), dim=1)
    limits = torch.tensor([width, height, width, height])
    places = torch.minimum(corners.nan_to_num(0).clamp(min=0), limits).long().tolist()
    edges = boxes.tolist()
    for image, mask, (left, top, right, bottom), (x1, y1, x2, y2) in zip(canvas, masks, places, edges, strict=True):
        right, bottom = max(left, right), max(top, bottom)
        rows = _bilinear(top, bottom, y1, y2, mask.shape[0]).to(mask)
        columns = _bilinear(left, right, x1, x2, mask.shape[1]).to(mask)
        values = rows @ mask @ columns.T
        target = image[top:bottom, left:right]
        if threshold >= 0:
            torch.ge(values, threshold, out=target)
        else:
            target.copy_((values * 255).to(torch.uint8))
    return canvas


def _bilinear(start: int, stop: int, low: float, high: float, count: int) -> Tensor:
    """Compute a mask's weights (pixels, count) in the pixels from ``start`` to ``stop``; zeros beyond its border."""
    pixels = torch.arange(start, stop, dtype=torch.float32) + 0.5
    first, last = torch.tensor(low), torch.tensor(high)
    place = (pixels - first) / (last - first) * 2 - 1  # of the box, from -1 to 1
    place = torch.where(place.isinf(), 0, place)
    place = ((place + 1) * count - 1) / 2  # in cells
    return (1 - (place[:, None] - torch.arange(count)).abs()).clamp_(min=0)


@register_fused(FCNMaskHead, MemoryEfficientFCNMaskHead)
def fuse_mask_head(head: FCNMaskHead) -> nn.Module:
    """Fuse a mask head that ends in a 2×2 transposed convolution and a 1×1 convolution; return others themselves."""
    return FusedMaskHead(head) if ends_usually(head) else head


class _MasksOfFound(Variant):
    """Computes only the masks of the classes that were found, on a CPU by fused heads and extractors.

    The stages of a cascade read the same boxes' features, which are extracted once; its masks are the mean of theirs.
    """

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add masks to what the box heads have found."""
        single = not isinstance(self.mask_head, nn.ModuleList)
        heads, extractors = ([part] if single else list(part) for part in (self.mask_head, self.mask_roi_extractor))
        known = all(isinstance(head, FusedMaskHead) for head in heads)
        known &= all(isinstance(extractor, FusedRoIExtractor) for extractor in extractors)
        if not (known and cpu_inference(x[0]) and not self.with_shared_head and any(map(len, results_list))):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)  # type: ignore[misc]
        rois, labels, counts = _found(results_list)
        features, total = None, None
        for stage, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            if features is None or not extractor.same_as(extractors[stage - 1]):
                features = extractor(x[: extractor.num_inputs], rois)
            masks = head.masks_of(features, labels).sigmoid_()
            total = masks if total is None else total.add_(masks)
        return heads[-1].predict_by_feat(
            mask_preds=cast(Tensor, total).div_(len(heads))[:, None].split(counts),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
            activate_map=True,
        )


@register_fused(StandardRoIHead)
class FusedStandardRoIHead(_MasksOfFound, StandardRoIHead):
    """A :class:`StandardRoIHead` that computes only the masks of the classes that were found."""


@register_fused(CascadeRoIHead)
class FusedCascadeRoIHead(_MasksOfFound, CascadeRoIHead):
    """A :class:`CascadeRoIHead` that computes only the masks of the classes that were found."""


def _found(results_list: list[InstanceData]) -> tuple[Tensor, Tensor, list[int]]:
    """Return the boxes (R, 5) of all images, their classes (R,), and how many each image has."""
    rois = bbox2roi([results.bboxes for results in results_list])
    return rois, torch.cat([results.labels for results in results_list]), [len(results) for results in results_list]


def _settings(extractor: SingleRoIExtractor) -> tuple[object, ...]:
    layers = [
        (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned) for layer in extractor.roi_layers
    ]
    return extractor.finest_scale, layers
