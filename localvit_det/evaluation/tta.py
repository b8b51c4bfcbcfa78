"""Test-time augmentation: each image flipped and at several sizes, the boxes of all views merged."""

from __future__ import annotations

import copy
from typing import Any

from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from ..config.parts import find_datasets, walk
from ..errors import ConfigError

SCALES = (0.75, 1.0, 1.25)
_COCO = ("CocoMetric", "FastCocoMetric")
_FLIP = ("flip", "flip_direction")


@MODELS.register_module()
class BoxTTAModel(DetTTAModel):
    """MMDetection's `DetTTAModel` for detectors that also find masks, which it refuses: here only boxes leave.

    Args:
        settings: As of `DetTTAModel`; `module` is the detector.
    """

    def merge_preds(self, data_samples_list: list) -> list:
        """Merges the views of each image, after their masks are gone."""
        for views in data_samples_list:
            for sample in views:
                if "masks" in sample.pred_instances:
                    del sample.pred_instances.masks
        return super().merge_preds(data_samples_list)


def use_tta(cfg: Config) -> None:
    """`--tta`: lets a test look at each image six times. A config's own `tta_model` and `tta_pipeline` are taken.

    Raises:
        ConfigError: The config's predictions or images cannot be merged or augmented so.
    """
    _boxes_only(cfg)
    limits = ((cfg.model.get("test_cfg") or {}).get("rcnn")) or cfg.model.get("test_cfg") or {}
    merging = {
        "nms": copy.deepcopy(limits.get("nms")) or {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": limits.get("max_per_img", 100),
    }
    wrapper = cfg.get("tta_model") or {"type": "BoxTTAModel", "tta_cfg": merging}
    cfg.model = {**wrapper, "type": "BoxTTAModel", "module": cfg.model}
    for path, dataset in find_datasets(cfg, "test"):
        dataset["pipeline"] = cfg.get("tta_pipeline") or augmented(dataset.get("pipeline") or [], path)


def augmented(pipeline: list[dict], path: str) -> list[dict]:
    """A test pipeline with a `TestTimeAug` in the place of all from its `Resize` on.

    Args:
        pipeline: Transforms.
        path: Where in the config it stands.

    Raises:
        ConfigError: It has no `Resize` with a scale.
    """
    at = next((i for i, step in enumerate(pipeline) if step.get("type") == "Resize" and step.get("scale")), None)
    if at is None:
        raise ConfigError(f"--tta finds no Resize with a scale in {path}.pipeline: give the config a tta_pipeline.")
    resize, rest = pipeline[at], pipeline[at + 1 :]
    sizes = [{**resize, "scale": _scaled(resize["scale"], factor)} for factor in SCALES]
    flips = [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}]
    transforms = [sizes, flips, *([_for_all_views(step)] for step in rest)]
    return [*pipeline[:at], {"type": "TestTimeAug", "transforms": transforms}]


def _for_all_views(step: dict) -> dict:
    step = copy.deepcopy(step)
    if step.get("type") == "Pad" and step.get("size"):  # room for the largest view
        step["size"] = _scaled(step["size"], max(SCALES))
    if step.get("type") == "PackDetInputs":
        default = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        step["meta_keys"] = (*dict.fromkeys((*step.get("meta_keys", default), *_FLIP)),)
    return step


def _scaled(size: Any, factor: float) -> tuple[int, int]:
    return tuple(round(side * factor) for side in size)


def _boxes_only(cfg: Config) -> None:
    if cfg.get("default_scope", "mmdet") != "mmdet":
        raise ConfigError(
            f"--tta merges boxes of MMDetection, and this config is one of {cfg.default_scope}: leave it."
        )
    metrics = [node for _, node in walk(cfg.get("test_evaluator")) if node.get("type")]
    others = [node["type"] for node in metrics if str(node["type"]).removeprefix("mmdet.") not in _COCO]
    if others or not metrics:
        raise ConfigError(f"--tta merges boxes, and the config evaluates with {others or 'nothing'}: leave it out.")
    for node in metrics:
        wanted = [node["metric"]] if isinstance(node.get("metric", "bbox"), str) else list(node["metric"])
        if "bbox" not in wanted:
            raise ConfigError(f"--tta merges boxes, and the config evaluates {wanted} only: leave it out.")
        if wanted != ["bbox"]:
            left = ", ".join(name for name in wanted if name != "bbox")
            print_log(f"--tta merges boxes only, as MMDetection does: {left} is left out of this test.", "current")
        node["metric"] = "bbox"
