"""Export DINO: queries chosen among the encoder's tokens, attention to sampled places, no NMS."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DINO
from mmdet.models.layers import (
    DeformableDetrTransformerEncoder,
    DinoTransformerDecoder,
    SinePositionalEncoding,
    inverse_sigmoid,
)
from torch import Tensor

from ..fused import fused_copy
from .attention import Shapes, deformable, encode, grid_of
from .module import BOXES, ExportableModel, Requirements, is_plain, kind_of, of_detectors

_INSIDE = 0.01  # from a border of the image on, in parts of it, no place is a proposal


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
        """Yield what has to hold."""
        yield from of_detectors(model)
        for part, kind in (
            (model.bbox_head, DINOHead),
            (model.encoder, DeformableDetrTransformerEncoder),
            (model.decoder, DinoTransformerDecoder),
            (model.positional_encoding, SinePositionalEncoding),
        ):
            yield is_plain(part, kind), f"a {kind_of(part)}"
        yield model.bbox_head.loss_cls.use_sigmoid, "softmax in its head"
        sampling = [part for part in model.modules() if isinstance(part, MultiScaleDeformableAttention)]
        yield all(part.batch_first for part in sampling), "attention whose first axis is not the image"

    def forward(self, image: Tensor, size: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Find objects, as detectors do: the best pairs of a query and a class."""
        maps = self.feature_maps(image, size)
        shapes: Shapes = [(one.shape[2], one.shape[3]) for one in maps]
        masks = [_padding(one, image, size) for one in maps]
        tokens = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)  # 1,L,C
        positions = torch.cat(
            [
                self.positional_encoding(mask).flatten(2).transpose(1, 2) + embed
                for mask, embed in zip(masks, self.level_embed, strict=True)
            ],
            1,
        )
        ratios = torch.stack(
            [torch.stack(((~mask[0, 0]).float().mean(), (~mask[0, :, 0]).float().mean())) for mask in masks]
        )
        padding = torch.cat([mask.flatten(1) for mask in masks], 1)  # 1,L
        memory = encode(self.encoder, tokens, positions, padding, shapes, ratios[None])
        proposals = self.proposals(memory, masks)
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
        classes = scores.shape[1]
        scores, index = scores.reshape(-1).topk(self.settings.get("max_per_img", len(boxes)))
        found = (scores > score).nonzero()[:, 0]
        scores, index = scores[found], index[found]
        boxes, (height, width) = boxes[index // classes], size.to(boxes.dtype).unbind()
        limits = torch.stack((width, height, width, height))
        corners = torch.cat((boxes[:, :2] - 0.5 * boxes[:, 2:], boxes[:, :2] + 0.5 * boxes[:, 2:]), 1) * limits
        return torch.minimum(corners.clamp(min=0), limits), scores, index % classes

    def proposals(self, memory: Tensor, masks: list[Tensor]) -> Tensor:
        """Return the boxes (1, Q, 4), before their sigmoid, of the tokens that are likeliest to be an object."""
        places = []
        for level, mask in enumerate(masks):
            height, width = ((~line).sum() for line in (mask[0, :, 0], mask[0, 0]))
            x, y = (
                (torch.arange(mask.shape[axis], device=mask.device) + 0.5) / side
                for axis, side in ((2, width), (1, height))
            )
            center = grid_of(x, y)
            places.append(torch.cat((center, torch.full_like(center, 0.05 * 2.0**level)), 1))
        place = torch.cat(places)[None]  # 1,L,4
        padding = torch.cat([mask.flatten(1) for mask in masks], 1)
        outside = padding | ~((place > _INSIDE) & (place < 1 - _INSIDE)).all(-1)
        anchors = torch.log(place / (1 - place)).masked_fill(outside[..., None], torch.inf)
        tokens = self.norm(self.transform(memory.masked_fill(outside[..., None], 0.0)))
        head = len(self.decoder.layers)
        best = self.head.cls_branches[head](tokens).amax(-1).topk(self.query_embedding.num_embeddings, dim=1)[1]
        boxes = self.head.reg_branches[head](tokens) + anchors
        return boxes.gather(1, best[..., None].expand(-1, -1, 4))


def _padding(features: Tensor, image: Tensor, size: Tensor) -> Tensor:
    """Return which places of a feature map are padding of the image, (1, h, w)."""
    height, width = features.shape[2:]
    rows = torch.arange(height, device=image.device) * image.shape[2] // height < size[0]
    columns = torch.arange(width, device=image.device) * image.shape[3] // width < size[1]
    return ~(rows[:, None] & columns)[None]
