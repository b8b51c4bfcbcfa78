"""Export DINO and Mask2Former: queries, and attention to sampled places of several feature maps, without NMS.

Mask2Former is for instance segmentation; its queries' attention is masked by what they found before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.dense_heads import DINOHead, Mask2FormerHead
from mmdet.models.detectors import DINO, Mask2Former
from mmdet.models.layers import (
    DeformableDetrTransformerEncoder,
    DinoTransformerDecoder,
    MSDeformAttnPixelDecoder,
    SinePositionalEncoding,
    inverse_sigmoid,
)
from mmdet.models.seg_heads import MaskFormerFusionHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from ..fused import fused_copy
from .boxes import clip, grid_of
from .module import BOXES, IMAGE_MASKS, ExportableModel, Requirement, Requirements, plain

_INSIDE = 0.01  # from a border of the image on, in parts of it, no place is a proposal
Shapes = Sequence[tuple[int, int]]  # height and width of each feature map


class DeformableAttention(nn.Module):
    """MMCV's multi-scale deformable attention, which reads the shapes of the feature maps as numbers.

    MMCV's own, whose layers are shared, reads them from a tensor and splits by it, which no exporter follows for more
    than one size.
    """

    def __init__(self, original: MultiScaleDeformableAttention) -> None:
        super().__init__()
        self.heads, self.points, self.levels = original.num_heads, original.num_points, original.num_levels
        self.sampling_offsets, self.attention_weights = original.sampling_offsets, original.attention_weights
        self.value_proj, self.output_proj = original.value_proj, original.output_proj

    def forward(
        self,
        query: Tensor,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        spatial_shapes: Shapes,
        **unused: Any,
    ) -> Tensor:
        """Return (1, Q, C) for queries (1, Q, C), with arguments as of MMCV's.

        Args:
            value: (1, L, C), the feature maps one after the other.
            key_padding_mask: (1, L).
            reference_points: In parts of each feature map: points (1, Q, levels, 2) or boxes (1, Q, levels, 4).
            unused: What MMDetection's layers pass on as well.
        """
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        # Of the only image: L,heads,c and Q,heads,levels,points(,2)
        count, value = query.shape[1], value[0].reshape(value.shape[1], self.heads, -1)
        offsets = self.sampling_offsets(query).reshape(count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).reshape(count, self.heads, -1).softmax(-1)
        weights = weights.reshape(count, self.heads, self.levels, self.points)
        found, start = torch.zeros_like(value[:1]).permute(1, 2, 0), 0  # heads,c,1
        for level, (height, width) in enumerate(spatial_shapes):
            reference, offset = reference_points[0, :, level][:, None, None], offsets[:, :, level]  # Q,1,1,2|4 Q,h,p,2
            if reference.shape[-1] == 2:
                offset = torch.stack((offset[..., 0] / width, offset[..., 1] / height), -1)
            else:
                offset = offset / self.points * reference[..., 2:] * 0.5
            grid = (2 * (reference[..., :2] + offset) - 1).transpose(0, 1)  # heads,Q,points,2
            image = value[start : start + height * width].permute(1, 2, 0).reshape(self.heads, -1, height, width)
            sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            found = found + (sampled * weights[:, :, level].transpose(0, 1)[:, None]).sum(-1)  # heads,c,Q
            start = start + height * width
        return self.output_proj(found.reshape(1, -1, count).transpose(1, 2)) + identity


def deformable(module: nn.Module) -> nn.Module:
    """Put the attention above in place of MMCV's, everywhere inside a module."""
    for name, part in module.named_children():
        if isinstance(part, MultiScaleDeformableAttention):
            module._modules[name] = DeformableAttention(part)
        else:
            deformable(part)
    return module


def encode(
    encoder: DeformableDetrTransformerEncoder,
    tokens: Tensor,
    positions: Tensor,
    padding: Tensor | None,
    shapes: Shapes,
    ratios: Tensor,
) -> Tensor:
    """Run an encoder of MMDetection whose attention is the one above.

    Args:
        tokens: The feature maps one after the other, (1, L, C); as long are their positions and what is padding (1, L).
        ratios: Which part of width and height of each feature map is no padding, (1, levels, 2).
    """
    points = [
        _centers(height, width, height * ratio[1], width * ratio[0])
        for (height, width), ratio in zip(shapes, ratios[0], strict=True)
    ]
    reference = torch.cat(points)[None, :, None] * ratios[:, None]  # 1,L,levels,2
    for layer in encoder.layers:
        tokens = layer(
            query=tokens,
            query_pos=positions,
            key_padding_mask=padding,
            spatial_shapes=shapes,
            reference_points=reference,
        )
    return tokens


class ExportableDINO(ExportableModel):
    """DINO."""

    outputs = BOXES
    encoder: Any
    decoder: Any
    head: Any
    positional_encoding: Any
    query_embedding: Any
    level_embed: Tensor

    def __init__(self, model: DINO) -> None:
        super().__init__(model)
        self.settings = model.test_cfg or {}
        self.encoder, self.decoder = (deformable(fused_copy(part)) for part in (model.encoder, model.decoder))
        self.head, self.positional_encoding = model.bbox_head, model.positional_encoding
        self.transform, self.norm = model.memory_trans_fc, model.memory_trans_norm
        self.query_embedding, self.level_embed = model.query_embedding, model.level_embed

    @classmethod
    def requirements(cls, model: DINO) -> Requirements:
        yield from super().requirements(model)
        yield plain(model.bbox_head, DINOHead)
        yield plain(model.encoder, DeformableDetrTransformerEncoder)
        yield plain(model.decoder, DinoTransformerDecoder)
        yield plain(model.positional_encoding, SinePositionalEncoding)
        yield model.bbox_head.loss_cls.use_sigmoid, "softmax in its head"
        yield _axes_of_attention(model)

    def forward(self, image: Tensor, size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Find objects, as detectors do: the best pairs of a query and a class."""
        maps = self.feature_maps(image, size)
        shapes: Shapes = [(one.shape[2], one.shape[3]) for one in maps]
        masks = [_padding(one, image, size) for one in maps]
        tokens = torch.cat([_tokens(one) for one in maps], 1)  # 1,L,C
        levels = zip(masks, self.level_embed, strict=True)
        positions = torch.cat([_tokens(self.positional_encoding(mask)) + embed for mask, embed in levels], 1)
        ratios = torch.stack(
            [torch.stack(((~mask[0, 0]).float().mean(), (~mask[0, :, 0]).float().mean())) for mask in masks]
        )
        padding = torch.cat([mask.flatten(1) for mask in masks], 1)  # 1,L
        memory = encode(self.encoder, tokens, positions, padding, shapes, ratios[None])
        proposals = self.proposals(memory, masks, padding)
        states, references = self.decoder(
            query=self.query_embedding.weight[None],
            value=memory,
            key_padding_mask=padding,
            self_attn_mask=None,
            reference_points=proposals.sigmoid(),
            spatial_shapes=shapes,
            level_start_index=None,
            valid_ratios=ratios[None],
            reg_branches=self.head.reg_branches,
        )
        last = len(states) - 1
        boxes = (self.head.reg_branches[last](states[last]) + inverse_sigmoid(references[last])).sigmoid()[0]  # Q,4
        scores = self.head.cls_branches[last](states[last])[0].sigmoid()  # Q,classes
        scores, query, label = _best_pairs(scores, self.settings.get("max_per_img", len(boxes)), score)
        corners = bbox_cxcywh_to_xyxy(boxes[query]) * size[[1, 0, 1, 0]].to(boxes.dtype)
        return clip(corners, size), scores, label

    def proposals(self, memory: Tensor, masks: list[Tensor], padding: Tensor) -> Tensor:
        """Return the boxes (1, Q, 4), before their sigmoid, of the tokens that are likeliest to be an object."""
        places = []
        for level, mask in enumerate(masks):
            center = _centers(mask.shape[1], mask.shape[2], (~mask[0, :, 0]).sum(), (~mask[0, 0]).sum())
            places.append(torch.cat((center, torch.full_like(center, 0.05 * 2.0**level)), 1))
        place = torch.cat(places)[None]  # 1,L,4
        outside = padding | ~((place > _INSIDE) & (place < 1 - _INSIDE)).all(-1)
        anchors = torch.log(place / (1 - place)).masked_fill(outside[..., None], torch.inf)
        tokens = self.norm(self.transform(memory.masked_fill(outside[..., None], 0.0)))
        head = len(self.decoder.layers)
        best = self.head.cls_branches[head](tokens).amax(-1).topk(self.query_embedding.num_embeddings, dim=1)[1]
        boxes = self.head.reg_branches[head](tokens) + anchors
        return boxes.gather(1, best[..., None].expand(-1, -1, 4))


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
        head, fusion = model.panoptic_head, model.panoptic_fusion_head
        settings = fusion.test_cfg
        yield plain(head, Mask2FormerHead)
        yield plain(head.pixel_decoder, MSDeformAttnPixelDecoder)
        yield plain(fusion, MaskFormerFusionHead)
        yield not settings.get("panoptic_on", True), "regions without objects (test_cfg.panoptic_on)"
        yield settings.get("instance_on", False), "no objects (test_cfg.instance_on)"
        yield _axes_of_attention(head)

    def detect(self, maps: tuple[Tensor, ...], size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return scores of the classes alone, labels, and logits of masks of the best pairs of a query and a class."""
        logits, masks = self.queries(*self.pixels(maps))
        count = self.settings.get("max_per_image", 100)
        scores, query, label = _best_pairs(logits.softmax(1)[:, :-1], count, score)
        return scores, label, masks[query]

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


def _axes_of_attention(model: nn.Module) -> Requirement:
    sampling = [part for part in model.modules() if isinstance(part, MultiScaleDeformableAttention)]
    return all(part.batch_first for part in sampling), "attention whose first axis is not the image"


def _best_pairs(scores: Tensor, count: int, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, queries and classes of the best pairs among (Q, classes), at most `count`, above a score."""
    classes = scores.shape[1]
    scores, index = scores.reshape(-1).topk(count)
    found = (scores > score).nonzero()[:, 0]
    scores, index = scores[found], index[found]
    return scores, index // classes, index % classes


def _centers(height: int, width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the centers (H·W, 2) of the cells of a feature map, in parts of an extent of so many rows and columns."""
    x, y = (torch.arange(side, device=rows.device) + 0.5 for side in (width, height))
    return grid_of(x / columns, y / rows)


def _padding(features: Tensor, image: Tensor, size: Tensor) -> Tensor:
    """Return which places of a feature map are padding of the image, (1, h, w)."""
    height, width = features.shape[2:]
    rows = torch.arange(height, device=image.device) * image.shape[2] // height < size[0]
    columns = torch.arange(width, device=image.device) * image.shape[3] // width < size[1]
    return ~(rows[:, None] & columns)[None]


def _tokens(features: Tensor) -> Tensor:
    """Return (1, H·W, C) from (1, C, H, W)."""
    return features.flatten(2).transpose(1, 2)


def _nowhere(features: Tensor) -> Tensor:
    """Return a mask (1, H, W) of no padding, which Mask2Former does not look at."""
    return torch.zeros_like(features[:, 0], dtype=torch.bool)
