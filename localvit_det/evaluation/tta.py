"""Test-time augmentation: each image flipped and at several sizes, boxes and masks of all views merged."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from torch import Tensor

from ..config.utils import find_datasets, is_coco_metric, walk
from ..config_names import type_name
from ..errors import ConfigError

SCALES = (0.75, 1.0, 1.25)
_MERGED = {"bbox", "segm"}
_FLIP = ("flip", "flip_direction")
_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


@MODELS.register_module()
class MaskTTAModel(DetTTAModel):
    """MMDetection's `DetTTAModel`, and masks, which that refuses.

    Boxes are merged as there, by NMS. The mask of a box that is left is a vote of all views' masks whose boxes NMS took
    for the same object, its own among them, each with the weight of its score: the mask voting of arXiv:1512.04412, of
    binary masks.
    """

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        views = [sample.pred_instances for sample in data_samples]
        pairs = zip(views, data_samples, strict=True)
        masks = [unflip(view.pop("masks"), sample) for view, sample in pairs if "masks" in view]
        boxes, scores = self.merge_aug_bboxes(
            [view.bboxes for view in views], [view.scores for view in views], [s.metainfo for s in data_samples]
        )
        labels = torch.cat([view.labels for view in views])
        merged = super()._merge_single_sample(data_samples)
        if masks:
            left = merged.pred_instances
            nms = self.tta_cfg["nms"]
            same = bbox_overlaps(left.bboxes, boxes) >= nms.get("iou_threshold", nms.get("iou_thr", 0.5))
            same &= left.labels[:, None] == labels
            left.masks = vote(torch.cat(masks), same * scores)
        return merged


def unflip(masks: Tensor, sample: DetDataSample) -> Tensor:
    """Flip the masks of a view, (N, H, W), back to the image."""
    return masks.flip(_AXES[sample.flip_direction]) if sample.flip else masks


def vote(masks: Tensor, weights: Tensor) -> Tensor:
    """Return the majorities (K, H, W) of masks (N, H, W), all bool, with weights (K, N).

    They are where masks of at least half of the weight lie; empty where none has any.
    """
    result = masks.new_empty(len(weights), *masks.shape[1:])
    having = weights != 0
    voting = having.nonzero()[:, 1].split(having.sum(1).tolist())  # of all, as a GPU is waited for
    # One by one: all at once would be gigabytes of numbers.
    for mask, weight, voters in zip(result, weights, voting, strict=True):
        votes = torch.einsum("n,nhw->hw", weight[voters], masks[voters].to(weight.dtype))
        mask.copy_((votes >= weight.sum() / 2) & (votes > 0))
    return result


def use_tta(cfg: Config) -> None:
    """Make a test run on six views of each image (`--tta`). A config's own `tta_model` and `tta_pipeline` are taken.

    MMDetection's `DetTTAModel` in `tta_model` becomes `MaskTTAModel`, which does the same with boxes.

    Raises:
        ConfigError: The config's predictions or images cannot be merged or augmented so.
    """
    _check_metrics(cfg)
    limits = ((cfg.model.get("test_cfg") or {}).get("rcnn")) or cfg.model.get("test_cfg") or {}
    merging = {
        "nms": copy.deepcopy(limits.get("nms")) or {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": limits.get("max_per_img", 100),
    }
    wrapper = dict(cfg.get("tta_model") or {"type": "MaskTTAModel", "tta_cfg": merging})
    if type_name(wrapper) == "DetTTAModel":
        wrapper["type"] = "MaskTTAModel"
    cfg.model = {**wrapper, "module": cfg.model}
    for path, dataset in find_datasets(cfg, "test"):
        dataset["pipeline"] = cfg.get("tta_pipeline") or augmented(dataset.get("pipeline") or [], path)


def augmented(pipeline: list[dict], path: str) -> list[dict]:
    """Return the test pipeline at a path of a config with a `TestTimeAug` in the place of all from its `Resize` on.

    Raises:
        ConfigError: It has no `Resize` with a scale.
    """
    at = next((i for i, step in enumerate(pipeline) if type_name(step) == "Resize" and step.get("scale")), None)
    if at is None:
        raise ConfigError(f"--tta finds no Resize with a scale in {path}.pipeline: give the config a tta_pipeline.")
    resize, rest = pipeline[at], pipeline[at + 1 :]
    sizes = [{**resize, "scale": _scaled(resize["scale"], factor)} for factor in SCALES]
    flips = [{"type": "RandomFlip", "prob": prob} for prob in (0.0, 1.0)]
    transforms = [sizes, flips, *([_for_all_views(step)] for step in rest)]
    return [*pipeline[:at], {"type": "TestTimeAug", "transforms": transforms}]


def _for_all_views(step: dict) -> dict:
    step = copy.deepcopy(step)
    if type_name(step) == "Pad" and step.get("size"):  # room for the largest view
        step["size"] = _scaled(step["size"], max(SCALES))
    if type_name(step) == "PackDetInputs":
        default = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        step["meta_keys"] = (*dict.fromkeys((*step.get("meta_keys", default), *_FLIP)),)
    return step


def _scaled(size: Any, factor: float) -> tuple[int, int]:
    return tuple(round(side * factor) for side in size)


def _check_metrics(cfg: Config) -> None:
    merges = "--tta merges boxes and masks"
    if cfg.get("default_scope", "mmdet") != "mmdet":
        raise ConfigError(f"{merges} of MMDetection, and this config is one of {cfg.default_scope}: leave it.")
    metrics = [node for _, node in walk(cfg.get("test_evaluator")) if node.get("type")]
    others = [type_name(node) for node in metrics if not is_coco_metric(node)]
    if others or not metrics:
        raise ConfigError(f"{merges}, and the config evaluates with {others or 'nothing'}: leave it out.")
    for node in metrics:
        wanted = [node["metric"]] if isinstance(node.get("metric", "bbox"), str) else list(node["metric"])
        if others := sorted(set(wanted) - _MERGED):
            raise ConfigError(f"{merges}, and the config evaluates {others}: leave that metric or --tta out.")
