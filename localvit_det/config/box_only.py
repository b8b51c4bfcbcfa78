"""The form of a config that finds boxes alone: for data without masks."""

from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import ConfigError
from .parts import walk

# Detectors that find their boxes without masks, and what they are called then.
_MODELS = {"MaskRCNN": "FasterRCNN", "FasterRCNN": "FasterRCNN", "CascadeRCNN": "CascadeRCNN"}
_ONE_STAGE = ("RTMDet", "RetinaNet", "DINO")
_HEADS = {"RTMDetInsSepBNHead": dict(type="RTMDetSepBNHead", with_objectness=False, exp_on_reg=True)}
_OF_MASKS = ("mask_head", "mask_roi_extractor", "loss_mask", "mask_size", "mask_thr_binary")


def use_with_mask(cfg: Config) -> None:
    """With the top-level `with_mask=False` takes masks out of the model, the loading and the metrics.

    Raises:
        ConfigError: The model finds its objects by their masks, or `with_mask` is neither True nor False.
    """
    choice = cfg.get("with_mask")
    if choice is None or choice is True:
        return
    if choice is not False:
        raise ConfigError(f"with_mask={choice!r} is neither True nor False: give one of them.")
    kind = str((cfg.get("model") or {}).get("type")).rpartition(".")[2]
    if kind not in (*_MODELS, *_ONE_STAGE):
        raise ConfigError(
            f"with_mask=False: {kind} has no form without masks; take a config that needs none, such as "
            "faster_rcnn_shuffle_t_coco (`localvit configs` lists all)."
        )
    changed = _without_mask_head(cfg, kind)
    for _, node in walk(cfg._cfg_dict):
        if node.get("with_mask"):
            node["with_mask"] = False
            changed = True
        metric = node.get("metric")
        if isinstance(metric, (list, tuple)) and "segm" in metric:
            node["metric"] = [name for name in metric if name != "segm"]
        elif metric == "segm":
            node["metric"] = "bbox"
        if isinstance(node.get("save_best"), str):
            node["save_best"] = node["save_best"].replace("segm", "bbox")
    if changed:
        print_log("with_mask=False: boxes only; no mask head, no masks loaded, metric bbox.", "current")


def can_leave_masks(cfg: Config) -> bool:
    """Whether `with_mask=False` works for a config."""
    kind = str((cfg.get("model") or {}).get("type")).rpartition(".")[2]
    return kind in (*_MODELS, *_ONE_STAGE)


def _without_mask_head(cfg: Config, kind: str) -> bool:
    changed = False
    cfg.model.type = _MODELS.get(kind, kind)
    for _, node in walk(cfg.model):
        for key in _OF_MASKS:
            changed |= node.pop(key, None) is not None
        if node.get("type") in _HEADS:
            node.update(_HEADS[node["type"]])
        if node.get("pad_mask"):
            node["pad_mask"] = False
    return changed
