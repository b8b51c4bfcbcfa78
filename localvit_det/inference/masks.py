"""Mask heads of MMDetection for inference on a CPU: only the masks that are asked for, pasted by products."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..heads import LeanFCNMaskHead
from ..heads.mask_head import ends_usually
from ..layers import form_of
from ..ops import cpu_inference
from .forms import at_least_fp32, form_like
from .packed import KeepsPacked, pack_matrix, product_dtype
from .packed_conv import pack_conv

# RoIs whose upsampled features, 28·28·256 numbers each, are alive at a time.
_ROIS = 8


class PackedUpsample(KeepsPacked, nn.ConvTranspose2d):
    """A 2×2 transposed convolution of stride 2 that can be had as a product of matrices, with the ReLU after it.

    Args:
        conv: The convolution; its parameters are shared.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 2, 2, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def quarters(self, x: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, h, w, 4·C'), all channels of the four cells that a cell becomes, after a ReLU."""
        rows, dtype = x.permute(0, 2, 3, 1), product_dtype(x)
        bias = None if self.bias is None else self.bias.detach().repeat(4).to(dtype or self.bias.dtype)
        if dtype is None:
            return nn.functional.linear(rows, self._matrix(), bias).relu_()
        weight = self.packed(dtype, lambda: pack_matrix(self._matrix(), dtype))
        return torch.ops.mkldnn._linear_pointwise(rows.to(dtype), weight, bias, "relu", [], "")

    def _matrix(self) -> Tensor:
        return self.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)  # 4·C', C


class FusedMaskHead(FCNMaskHead):
    """An :class:`FCNMaskHead` that computes the map of one class for each RoI."""

    def masks_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """Logits of one class each.

        Args:
            x: Features, (R, C, h, w).
            labels: Classes, (R,).

        Returns:
            (R, 2h, 2w), at least fp32.
        """
        for conv in self.convs:
            x = conv(x)
        chosen = torch.zeros_like(labels) if self.class_agnostic else labels
        weight = self.conv_logits.weight.detach().flatten(1)[chosen]  # R, C
        bias = 0 if self.conv_logits.bias is None else self.conv_logits.bias.detach()[chosen][:, None]
        height, width = x.shape[2:]
        logits = torch.cat([self._logits(rois, w) for rois, w in zip(x.split(_ROIS), weight.split(_ROIS), strict=True)])
        logits = (at_least_fp32(logits) + bias).view(-1, height, width, 2, 2)
        return logits.permute(0, 1, 3, 2, 4).reshape(-1, 2 * height, 2 * width)

    def _logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """(R, C, h, w), (R, C) -> (R, h·w·4), the four cells of an upsampled one after each other."""
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
    """Stretch each mask over its box, bilinearly.

    Args:
        masks: Probabilities, (R, h, w).
        boxes: In pixels of the image, (R, 4).
        height: Of the image.
        width: Of the image.
        threshold: From which probability on a pixel belongs to the mask; below 0 for probabilities as bytes.

    Returns:
        (R, height, width), bool or uint8.
    """
    canvas = torch.zeros(len(masks), height, width, dtype=torch.bool if threshold >= 0 else torch.uint8)
    corners = torch.cat((boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1), dim=1)
    limits = torch.tensor([width, height, width, height])
    corners = torch.minimum(corners.nan_to_num(0).clamp(min=0), limits).long().tolist()
    edges = boxes.tolist()
    for image, mask, (left, top, right, bottom), (x1, y1, x2, y2) in zip(canvas, masks, corners, edges, strict=True):
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
    """Weights (pixels, count) of a mask's cells in the pixels from ``start`` to ``stop``; zeros beyond its border."""
    pixels = torch.arange(start, stop, dtype=torch.float32) + 0.5
    low, high = torch.tensor(low), torch.tensor(high)
    place = (pixels - low) / (high - low) * 2 - 1  # of the box, from -1 to 1
    place = torch.where(place.isinf(), 0, place)
    place = ((place + 1) * count - 1) / 2  # in cells
    return (1 - (place[:, None] - torch.arange(count)).abs()).clamp_(min=0)


@form_of(FCNMaskHead)
@form_of(LeanFCNMaskHead)
def fuse_mask_head(head: FCNMaskHead) -> nn.Module:
    """The fused form of a mask head that ends in a 2×2 transposed convolution and a 1×1 one; others as they are."""
    if not ends_usually(head):
        return head
    form = form_like(head, FusedMaskHead)
    form.upsample, form.conv_logits = PackedUpsample(head.upsample), pack_conv(head.conv_logits)
    return form
