"""MMDetection's FCNMaskHead, trained in less memory: only the mask of the object's own class, a few RoIs at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import wrappers
from mmcv.ops import roi_align
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.utils.checkpoint import checkpoint

from .deprecation import former_names
from .ops import is_plain

__all__ = ["MemoryEfficientFCNMaskHead"]
__getattr__ = former_names(__name__, {"LeanFCNMaskHead": "localvit_det.heads:MemoryEfficientFCNMaskHead"})

# RoIs whose upsampled features, 28·28·256 numbers each, are alive at a time, forward and backward.
_ROIS = 32


@MODELS.register_module(name=["MemoryEfficientFCNMaskHead", "LeanFCNMaskHead"])  # the second: its former name
class MemoryEfficientFCNMaskHead(FCNMaskHead):
    """An :class:`FCNMaskHead` with the same parameters, predictions and loss, whose training needs less memory.

    The loss reads one mask for each RoI, that of its class; FCNMaskHead computes all of them, and keeps the upsampled
    features of all RoIs for backward. Here the last two layers run in :meth:`loss_and_target`, for the class of each
    RoI, and are recomputed in backward a few RoIs at a time. So in training :meth:`forward` returns features, not
    masks, and the head is not for RoI heads that look at the masks before the loss.

    Where the last two layers or the loss are not the usual ones (transposed convolution of kernel and stride 2, ReLU,
    1×1 convolution, cross entropy without class weights), or have hooks or parametrizations, it is an FCNMaskHead in
    every respect.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features of RoIs (R, C, h, w) -> logits (R, classes, 2h, 2w), or in training features (R, C', h, w)."""
        if not (self.training and self._usual()):
            return super().forward(x)
        for conv in self.convs:
            x = conv(x)
        return x

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the loss as FCNMaskHead does, from what :meth:`forward` returns in training: (R, C', h, w)."""
        if not (self.training and self._usual()):
            return super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        only = torch.zeros_like(labels)
        if not len(labels):  # a zero that all parameters are part of, as DistributedDataParallel wants
            loss = self.conv_logits(self.relu(self.upsample(mask_preds))).sum()
        else:
            logits = self._logits(mask_preds, only if self.class_agnostic else labels)
            loss = self.loss_mask(logits, targets, only)
        return {"loss_mask": {"loss_mask": loss}, "mask_targets": targets}

    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: InstanceList, rcnn_train_cfg: ConfigDict
    ) -> Tensor:
        """Cut targets (R, 2h, 2w) as FCNMaskHead does, but without a copy of a whole image's mask for each RoI."""
        masks = [instances.masks for instances in batch_gt_instances]
        if rcnn_train_cfg.get("soft_mask_target") or not all(isinstance(m, BitmapMasks) and len(m) for m in masks):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        size = _pair(rcnn_train_cfg.mask_size)
        found = zip(masks, sampling_results, strict=True)
        return torch.cat([_cut(m, result.pos_priors, result.pos_assigned_gt_inds, size) for m, result in found])

    def _logits(self, x: Tensor, labels: Tensor) -> Tensor:
        """Compute logits of one class each: (R, C', h, w), (R,) -> (R, 1, 2h, 2w)."""
        weight = self.conv_logits.weight.flatten(1)[labels]  # R, C'
        few = zip(x.split(_ROIS), weight.split(_ROIS), strict=True)
        logits = torch.cat([checkpoint(self._cells, *one, use_reentrant=False) for one in few])  # R, h·w·4
        if self.conv_logits.bias is not None:
            logits = logits + self.conv_logits.bias[labels][:, None]
        return merge_cells(logits, *x.shape[2:])[:, None]

    def _cells(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the four cells that each cell becomes after each other: (R, C', h, w), (R, C'') -> (R, h·w·4)."""
        bias = None if self.upsample.bias is None else self.upsample.bias.repeat(4)
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # R, h·w, C'
        cells = F.linear(rows, upsample_matrix(self.upsample), bias).relu_()  # R, h·w, 4·C''
        return (cells.view(len(x), -1, weight.shape[1]) @ weight[:, :, None])[:, :, 0]  # R, h·w·4, C'' -> R, h·w·4

    def _usual(self) -> bool:
        loss = self.loss_mask
        return ends_usually(self) and type(loss) is CrossEntropyLoss and loss.use_mask and loss.class_weight is None


def _cut(masks: BitmapMasks, boxes: Tensor, owners: Tensor, size: tuple[int, int]) -> Tensor:
    """Return zeros and ones (R, *size): what lies in boxes (R, 4) of their owners (R,) among the masks (G, H, W)."""
    if not len(boxes):
        return boxes.new_zeros((0, *size))
    bitmaps = torch.from_numpy(masks.masks).to(boxes.device, boxes.dtype)[:, None]  # G, 1, H, W
    rois = torch.cat((owners[:, None].to(boxes.dtype), boxes), dim=1)
    rois[:, 1::2].clamp_(0, masks.width)
    rois[:, 2::2].clamp_(0, masks.height)
    return (roi_align(bitmaps, rois, size, 1.0, 0, "avg", True)[:, 0] >= 0.5).to(boxes.dtype)


def upsample_matrix(conv: nn.ConvTranspose2d) -> Tensor:
    """Return a 2×2 transposed convolution as a matrix (4·C', C): its product is what one cell becomes."""
    return conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # C, C', 2, 2 -> 4·C', C


def merge_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Put the four cells that each cell becomes in their places: (R, h·w·4) -> (R, 2h, 2w)."""
    cells = cells.view(-1, height, width, 2, 2).permute(0, 1, 3, 2, 4)  # R, h, 2, w, 2
    return cells.reshape(-1, 2 * height, 2 * width)


def ends_usually(head: FCNMaskHead) -> bool:
    """Whether a mask head ends in a plain 2×2 transposed convolution of stride 2, a ReLU and a 1×1 convolution."""
    up, last = head.upsample, head.conv_logits
    return (
        type(up) in (nn.ConvTranspose2d, wrappers.ConvTranspose2d)
        and up.kernel_size == up.stride == (2, 2)
        and up.padding == up.output_padding == (0, 0)
        and (up.dilation, up.groups) == ((1, 1), 1)
        and type(last) in (nn.Conv2d, wrappers.Conv2d)
        and last.kernel_size == last.stride == (1, 1)
        and (last.padding, last.groups) == ((0, 0), 1)
        and type(head.relu) is nn.ReLU
        and all(map(is_plain, (up, head.relu, last)))
    )
