"""What detectors of the benchmark work on: images of a data set, drawn objects, and a trained one's number of finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

# Of random weights every class is about as likely: so many of an image's scores count as found, about as many as
# a trained detector has above its threshold.
_CANDIDATES = 1000
# Boxes that stand for the proposals of a training step: of each object's surroundings, and anywhere.
_NEAR, _ANYWHERE = 60, 580
_OBJECTS = 7


def make_sample(size: tuple[int, int], seed: int, classes: int) -> DetDataSample:
    """Drawn objects, boxes and masks, of an image."""
    generator, scale = seeded(seed), torch.tensor((size[1], size[0])) * 0.6
    corner = torch.rand(_OBJECTS, 2, generator=generator) * scale
    far = corner + torch.rand(_OBJECTS, 2, generator=generator) ** 2 * scale + 10
    boxes = torch.cat((corner, torch.minimum(far, torch.tensor((size[1], size[0])) - 1.0)), dim=1)
    masks = np.zeros((_OBJECTS, *size), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.randint(classes, (_OBJECTS,), generator=generator)
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size, "batch_input_shape": size}
    sample = DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0), "img_id": seed})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, *size))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


def make_proposals(objects: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes about objects (N, 4) and anywhere in an image, of the numbers that a trained RPN proposes: (K, 4)."""
    generator = seeded()
    near = objects.repeat(_NEAR, 1)
    near = near + torch.randn(near.shape, generator=generator) * (near[:, 2:] - near[:, :2]).repeat(1, 2) * 0.12
    extent = torch.tensor((size[1], size[0]), dtype=torch.float32)
    corner = torch.rand(_ANYWHERE, 2, generator=generator) * extent * 0.9
    side = torch.exp(torch.rand(_ANYWHERE, 2, generator=generator) * 3.4) * 12
    boxes = torch.cat((near, torch.cat((corner, corner + side), dim=1)))
    return torch.minimum(boxes.clamp(min=0), extent.repeat(2))


def limit_images(cfg: Config, count: int | None, folder: Path) -> None:
    """Let data set and metric see the first images only: of an annotation file cut to them."""
    dataset, evaluator = cfg.test_dataloader.dataset, cfg.test_evaluator
    if count is None:
        return
    content = json.loads(Path(dataset.get("data_root") or "", dataset.ann_file).read_text(encoding="utf-8"))
    content["images"] = content["images"][:count]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    short = folder / "annotations.json"
    short.write_text(json.dumps(content), encoding="utf-8")
    dataset.ann_file = str(short)
    for metric in as_list(evaluator):
        metric.ann_file = str(short)


def calibrate(model: nn.Module, batch: dict) -> None:
    """Set the score threshold so that a detector with random weights finds as much as a trained one."""
    head = model.roi_head.bbox_head if hasattr(model, "roi_head") else None
    if head is None:
        return
    seen: list[Tensor] = []
    cfg = model.roi_head.test_cfg
    (head[-1] if isinstance(head, nn.ModuleList) else head).register_forward_hook(
        lambda _, inputs, outputs: seen.append(outputs[0].softmax(-1)[:, :-1].flatten())
    )
    hooked = head[-1] if isinstance(head, nn.ModuleList) else head
    with torch.no_grad():
        model.test_step(batch)
    hooked._forward_hooks.clear()
    scores = seen[-1].sort(descending=True).values
    cfg.score_thr = float(scores[min(_CANDIDATES * len(batch["inputs"]), len(scores) - 1)])


def as_list(value: object) -> list:
    """The values of a list, or the one value there is."""
    return list(value) if isinstance(value, (list, tuple, nn.ModuleList)) else [value]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own, so that nothing else changes what is drawn."""
    return torch.Generator().manual_seed(seed)
