"""RoI heads of MMDetection for inference on a CPU."""

from __future__ import annotations

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import form_of
from ..ops import cpu_inference
from ..ops.roi_align import roi_align_levels
from .forms import at_least_fp32, form_like
from .masks import FusedMaskHead
from .packed_conv import PLAIN_LINEARS, PackedLinear


class FusedRoIExtractor(SingleRoIExtractor):
    """A :class:`SingleRoIExtractor` that reads channels-last maps, all levels at once.

    Boxes stay in fp32 under autocast: bfloat16 counts pixels in steps of eight at 1000.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Maps (B, C, H_i, W_i) and boxes (R, 5) -> (R, C, h, w), channels-last in memory."""
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


class _FusedBBoxHead(ConvFCBBoxHead):
    """A box head whose first dense layer reads maps as they lie in channels-last memory."""

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
            x = layer(x)  # flattens maps; its ReLU is inside
        return x.flatten(1)


class FusedConvFCBBoxHead(_FusedBBoxHead):
    """The form of :class:`ConvFCBBoxHead`."""


class FusedShared2FCBBoxHead(_FusedBBoxHead, Shared2FCBBoxHead):
    """The form of :class:`Shared2FCBBoxHead`."""


class FusedShared4Conv1FCBBoxHead(_FusedBBoxHead, Shared4Conv1FCBBoxHead):
    """The form of :class:`Shared4Conv1FCBBoxHead`."""


class FusedStandardRoIHead(StandardRoIHead):
    """A :class:`StandardRoIHead` that computes only the masks of the classes that were found."""

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add masks to what the box head has found."""
        if not _fits(self, x, results_list, [self.mask_head], [self.mask_roi_extractor]):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        rois, labels, counts = _found(results_list)
        features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)
        masks = self.mask_head.masks_of(features, labels)
        return self.mask_head.predict_by_feat(
            mask_preds=masks[:, None].split(counts),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )


class FusedCascadeRoIHead(CascadeRoIHead):
    """A :class:`CascadeRoIHead`; its stages look at the same boxes' features, which are extracted once."""

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add masks, the mean of all stages', to what the box heads have found."""
        heads, extractors = list(self.mask_head), list(self.mask_roi_extractor)
        if not _fits(self, x, results_list, heads, extractors):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        rois, labels, counts = _found(results_list)
        features, total = None, None
        for stage, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            if features is None or not extractor.same_as(extractors[stage - 1]):
                features = extractor(x[: extractor.num_inputs], rois)
            masks = head.masks_of(features, labels).sigmoid_()
            total = masks if total is None else total.add_(masks)
        return heads[-1].predict_by_feat(
            mask_preds=total.div_(len(heads))[:, None].split(counts),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
            activate_map=True,
        )


def _fits(
    head: nn.Module,
    x: tuple[Tensor, ...],
    results_list: list[InstanceData],
    heads: list[nn.Module],
    extractors: list[nn.Module],
) -> bool:
    """Whether masks can be had in the short way: on a CPU, from heads and extractors that are known."""
    known = all(isinstance(h, FusedMaskHead) for h in heads) and all(
        isinstance(e, FusedRoIExtractor) for e in extractors
    )
    return known and cpu_inference(x[0]) and not head.with_shared_head and any(len(r) for r in results_list)


def _found(results_list: list[InstanceData]) -> tuple[Tensor, Tensor, list[int]]:
    """Boxes (R, 5) of all images, their classes (R,), and how many each image has."""
    rois = bbox2roi([results.bboxes for results in results_list])
    return rois, torch.cat([results.labels for results in results_list]), [len(results) for results in results_list]


def _settings(extractor: SingleRoIExtractor) -> tuple[object, ...]:
    layers = [
        (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned) for layer in extractor.roi_layers
    ]
    return extractor.finest_scale, layers


@form_of(SingleRoIExtractor)
def fuse_roi_extractor(extractor: SingleRoIExtractor) -> nn.Module:
    """The fused form of an extractor, or itself where its layers are not all mean RoIAligns of one kind."""
    kinds = {
        (type(layer), layer.output_size, layer.sampling_ratio, layer.pool_mode, layer.aligned, layer.use_torchvision)
        if isinstance(layer, RoIAlign)
        else None
        for layer in extractor.roi_layers
    }
    usual = len(kinds) == 1 and None not in kinds and extractor.roi_layers[0].pool_mode == "avg"
    return form_like(extractor, FusedRoIExtractor) if usual and type(extractor.roi_layers[0]) is RoIAlign else extractor


def _fuse_bbox_head(head: ConvFCBBoxHead) -> nn.Module:
    """The fused form of a box head; dense layers that are no plain `nn.Linear` stay."""
    kinds = {
        ConvFCBBoxHead: FusedConvFCBBoxHead,
        Shared2FCBBoxHead: FusedShared2FCBBoxHead,
        Shared4Conv1FCBBoxHead: FusedShared4Conv1FCBBoxHead,
    }
    dense = [*head.shared_fcs, *head.cls_fcs, *head.reg_fcs]
    if any(type(layer) not in PLAIN_LINEARS for layer in dense):
        return head
    form = form_like(head, kinds[type(head)])
    area = 1 if head.with_avg_pool else head.roi_feat_area
    for name in ("shared_fcs", "cls_fcs", "reg_fcs"):
        layers = getattr(head, name)
        # The first dense layer of a branch reads maps, unless shared ones have done so.
        first = area if name == "shared_fcs" or not len(head.shared_fcs) else 1
        packed = [PackedLinear(layer, nn.ReLU(), 1 if i else first) for i, layer in enumerate(layers)]
        setattr(form, name, nn.ModuleList(packed))
    for name in ("fc_cls", "fc_reg"):
        if type(getattr(head, name, None)) in PLAIN_LINEARS:
            setattr(form, name, PackedLinear(getattr(head, name)))
    return form


for _kind in (ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead):
    form_of(_kind)(_fuse_bbox_head)


@form_of(StandardRoIHead)
def fuse_standard_roi_head(head: StandardRoIHead) -> nn.Module:
    """The fused form of a :class:`StandardRoIHead`."""
    return form_like(head, FusedStandardRoIHead)


@form_of(CascadeRoIHead)
def fuse_cascade_roi_head(head: CascadeRoIHead) -> nn.Module:
    """The fused form of a :class:`CascadeRoIHead`."""
    return form_like(head, FusedCascadeRoIHead)
