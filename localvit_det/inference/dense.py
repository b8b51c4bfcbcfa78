"""Necks and dense heads of MMDetection for inference on a CPU."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.necks import FPN
from mmdet.structures.bbox import cat_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import form_of
from ..ops import cpu_inference
from .forms import at_least_fp32, form_like
from .packed_conv import can_pack, pack_conv


class FusedFPN(FPN):
    """An :class:`FPN` that adds coarse maps to fine ones in place, without making them larger first."""

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One map (B, C_i, H_i, W_i) per stage -> maps (B, C, H_i, W_i), and coarser ones."""
        if not cpu_inference(inputs[0]) or self.upsample_cfg != {"mode": "nearest"} or not self._own_laterals():
            return super().forward(inputs)
        laterals = [conv(inputs[i + self.start_level]) for i, conv in enumerate(self.lateral_convs)]
        for fine, coarse in zip(laterals[-2::-1], laterals[:0:-1], strict=True):
            _add_upsampled(fine, coarse)
        outs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=False)]
        return (*outs, *self._coarser(inputs, laterals, outs))

    def _own_laterals(self) -> bool:
        # What a hook or an identity returns may belong to somebody else.
        return not any(conv._forward_hooks or isinstance(conv, nn.Identity) for conv in self.lateral_convs)

    def _coarser(self, inputs: tuple[Tensor, ...], laterals: list[Tensor], outs: list[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = []
        sources = {"on_input": inputs[self.backbone_end_level - 1], "on_lateral": laterals[-1], "on_output": outs[-1]}
        for i in range(self.num_outs - len(outs)):
            last = maps[-1] if maps else outs[-1]
            if not self.add_extra_convs:
                maps.append(last[:, :, ::2, ::2])
                continue
            source = last if maps else sources[self.add_extra_convs]
            if maps and self.relu_before_extra_convs:
                source = source.relu()
            maps.append(self.fpn_convs[len(outs) + i](source))
        return maps


class FusedRPNHead(RPNHead):
    """An :class:`RPNHead` that sorts only the best of its hundreds of thousands of scores.

    Scores and deltas leave it in fp32, also under autocast: anchors take their type, and bfloat16 counts pixels in
    steps of eight at 1000.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map (B, C, H, W) -> scores (B, A, H, W), deltas (B, 4A, H, W)."""
        if not cpu_inference(x):
            return super().forward_single(x)
        x = self.rpn_conv(x)  # its ReLU is inside
        return at_least_fp32(self.rpn_cls(x)), at_least_fp32(self.rpn_reg(x))

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        cfg = self.test_cfg if cfg is None else cfg
        nms_pre = cfg.get("nms_pre", -1)
        levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for level, (scores, deltas, priors) in enumerate(zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)):
            scores = scores.permute(1, 2, 0).reshape(-1, self.cls_out_channels)
            scores = scores.sigmoid()[:, 0] if self.use_sigmoid_cls else scores.softmax(-1)[:, 0]
            deltas = deltas.permute(1, 2, 0).reshape(-1, self.bbox_coder.encode_size)
            if 0 < nms_pre < len(scores):
                best = best_of(scores, nms_pre)
                scores, deltas, priors = scores[best], deltas[best], priors[best]
            levels.append((scores, deltas, priors, torch.full_like(scores, level, dtype=torch.long)))
        scores, deltas, priors, level_ids = zip(*levels, strict=True)
        boxes = self.bbox_coder.decode(cat_boxes(priors), torch.cat(deltas), max_shape=img_meta["img_shape"])
        results = InstanceData(bboxes=boxes, scores=torch.cat(scores), level_ids=torch.cat(level_ids))
        return self._bbox_post_process(results=results, cfg=cfg, rescale=rescale, img_meta=img_meta)


def best_of(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest of ``scores`` (N,), best first, equal ones in their order.

    That is what a stable sort of all would give.
    """
    least = torch.topk(scores, count, sorted=False).values.amin()
    candidates = (scores >= least).nonzero()[:, 0]
    return candidates[torch.sort(scores[candidates], descending=True, stable=True).indices[:count]]


def _add_upsampled(fine: Tensor, coarse: Tensor) -> None:
    """Add a map (B, C, h, w) to one of any size (B, C, H, W), in place, each cell to those nearest to it."""
    height, width = coarse.shape[2:]
    if (-(-fine.shape[2] // 2), -(-fine.shape[3] // 2)) != (height, width):
        fine += nn.functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        return
    for top in (0, 1):
        for left in (0, 1):
            part = fine[:, :, top::2, left::2]
            part += coarse[:, :, : part.shape[2], : part.shape[3]]


@form_of(FPN)
def fuse_fpn(neck: FPN) -> FusedFPN:
    """The fused form of an :class:`FPN`."""
    return form_like(neck, FusedFPN)


@form_of(RPNHead)
def fuse_rpn_head(head: RPNHead) -> nn.Module:
    """The fused form of an :class:`RPNHead`, or the head itself where its layers are not the usual ones."""
    if not all(can_pack(layer) for layer in (head.rpn_cls, head.rpn_reg)) or head.use_sigmoid_cls is False:
        return head
    form = form_like(head, FusedRPNHead)
    if isinstance(head.rpn_conv, nn.Conv2d):
        if not can_pack(head.rpn_conv):
            return head
        form.rpn_conv = pack_conv(head.rpn_conv, nn.ReLU())
    form.rpn_cls, form.rpn_reg = pack_conv(head.rpn_cls), pack_conv(head.rpn_reg)
    return form


@form_of(RetinaHead)
def fuse_retina_head(head: RetinaHead) -> nn.Module:
    """The fused form of a :class:`RetinaHead`."""
    form = form_like(head, FusedRetinaHead)
    for name in ("retina_cls", "retina_reg"):
        if can_pack(getattr(head, name)):
            setattr(form, name, pack_conv(getattr(head, name)))
    return form


class FusedRetinaHead(RetinaHead):
    """A :class:`RetinaHead` whose scores and deltas leave it in fp32, also under autocast."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map (B, C, H, W) -> scores (B, A·classes, H, W), deltas (B, 4A, H, W)."""
        scores, deltas = super().forward_single(x)
        return (at_least_fp32(scores), at_least_fp32(deltas)) if cpu_inference(x) else (scores, deltas)
