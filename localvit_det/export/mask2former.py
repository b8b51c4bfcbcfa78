"""Export Mask2Former for instance segmentation: queries whose attention is masked by what they found before."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.detectors import Mask2Former
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.models.seg_heads import MaskFormerFusionHead
from torch import Tensor

from ..fused import fused_copy
from .attention import Shapes, deformable, encode
from .module import IMAGE_MASKS, ExportableModel, Requirements, is_plain, kind_of


class ExportableMask2Former(ExportableModel):
    """Mask2Former. Boxes and the part of scores that masks give are computed where masks have their final size."""

    outputs = {name: axes for name, axes in IMAGE_MASKS.items() if name != "boxes"}  # noqa: RUF012 - read-only

    head: Any

    def __init__(self, model: Mask2Former) -> None:
        super().__init__(model)
        self.settings = model.panoptic_fusion_head.test_cfg
        self.head = fused_copy(model.panoptic_head)
        deformable(self.head.pixel_decoder)

    @classmethod
    def requirements(cls, model: Mask2Former) -> Requirements:
        """Yield what has to hold."""
        head, fusion = model.panoptic_head, model.panoptic_fusion_head
        settings = fusion.test_cfg
        yield is_plain(head, Mask2FormerHead), f"a {kind_of(head)}"
        yield is_plain(head.pixel_decoder, MSDeformAttnPixelDecoder), f"a {kind_of(head.pixel_decoder)}"
        yield is_plain(fusion, MaskFormerFusionHead), f"a {kind_of(fusion)}"
        yield not settings.get("panoptic_on", True), "regions without objects (test_cfg.panoptic_on)"
        yield settings.get("instance_on", False), "no objects (test_cfg.instance_on)"
        sampling = [part for part in head.modules() if isinstance(part, MultiScaleDeformableAttention)]
        yield all(part.batch_first for part in sampling), "attention whose first axis is not the image"

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return scores of the classes alone, labels, and logits of masks of the best pairs of a query and a class."""
        logits, masks = self.queries(*self.pixels(maps))
        scores = logits.softmax(1)[:, :-1]  # Q,classes
        classes = scores.shape[1]
        scores, index = scores.reshape(-1).topk(self.settings.get("max_per_image", 100))
        found = (scores > score).nonzero()[:, 0]
        scores, index = scores[found], index[found]
        return scores, index % classes, masks[index // classes]

    def pixels(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return features for masks, (1, C, h, w), and feature maps from coarse to fine, as the pixel decoder does."""
        decoder = self.head.pixel_decoder
        coarse = maps[::-1][: decoder.num_encoder_levels]
        shapes: Shapes = [(one.shape[2], one.shape[3]) for one in coarse]
        tokens, positions = [], []
        for level, (layer, features) in enumerate(zip(decoder.input_convs, coarse, strict=True)):
            tokens.append(_tokens(layer(features)))
            place = _tokens(decoder.postional_encoding(_nowhere(features)))  # MMDetection's spelling
            positions.append(place + decoder.level_encoding.weight[level])
        ratios = tokens[0].new_ones(1, len(shapes), 2)
        memory = encode(decoder.encoder, torch.cat(tokens, 1), torch.cat(positions, 1), None, shapes, ratios)
        found, start = [], 0
        for height, width in shapes:
            part = memory[:, start : start + height * width].transpose(1, 2)
            found.append(part.reshape(1, -1, height, width))
            start = start + height * width
        for level in reversed(range(len(maps) - len(coarse))):
            side = decoder.lateral_convs[level](maps[level])
            above = F.interpolate(found[-1], size=side.shape[2:], mode="bilinear", align_corners=False)
            found.append(decoder.output_convs[level](side + above))
        return decoder.mask_feature(found[-1]), found[: decoder.num_outs]

    def queries(self, features: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits of classes (Q, classes + 1) and of masks (Q, h, w), as the transformer decoder does."""
        head, count = self.head, self.head.num_transformer_feat_level
        keys, positions = [], []
        for level, (layer, one) in enumerate(zip(head.decoder_input_projs, maps, strict=True)):
            keys.append(_tokens(layer(one)) + head.level_embed.weight[level])
            positions.append(_tokens(head.decoder_positional_encoding(_nowhere(one))))
        query = head.query_feat.weight[None]
        logits, masks, hidden = head._forward_head(query, features, maps[0].shape[2:])
        for index, layer in enumerate(head.transformer_decoder.layers):
            level = index % count
            query = layer(
                query=query,
                key=keys[level],
                value=keys[level],
                query_pos=head.query_embed.weight[None],
                key_pos=positions[level],
                cross_attn_mask=hidden & ~hidden.all(-1, keepdim=True),  # what sees nothing sees all
            )
            logits, masks, hidden = head._forward_head(query, features, maps[(index + 1) % count].shape[2:])
        return logits[0], masks[0]


def _tokens(features: Tensor) -> Tensor:
    """Return (1, H·W, C) from (1, C, H, W)."""
    return features.flatten(2).transpose(1, 2)


def _nowhere(features: Tensor) -> Tensor:
    """Return a mask (1, H, W) of no padding, which Mask2Former does not look at."""
    return torch.zeros_like(features[:, 0], dtype=torch.bool)
