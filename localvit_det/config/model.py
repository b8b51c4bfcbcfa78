"""Complete the model of a config: classes as in the datasets, `in_channels` as in the backbone, masks, weights."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoint.networks import OFFICIAL, official_address
from ..config_names import type_name
from ..datasets.annotations import read_annotations
from ..errors import ConfigError
from .utils import SPLITS, dataset_paths, find_datasets, has_stuff, is_semantic, prepare_dataset, registered, walk

# Parts whose num_classes does not count object classes: RPN is class-agnostic, semantic heads count stuff.
_OTHER_CLASSES = ("rpn_head", "semantic_head", "backbone")
# Parts that read the backbone's feature maps themselves where a model has no neck.
_HEADS = ("panoptic_head", "decode_head", "auxiliary_head")
# Detectors that find their boxes without masks, and what they are called then.
_MODELS = {"MaskRCNN": "FasterRCNN", "FasterRCNN": "FasterRCNN", "CascadeRCNN": "CascadeRCNN"}
_WITHOUT_MASKS = (*_MODELS, "RTMDet", "RetinaNet", "DINO")
_BOX_HEADS = {"RTMDetInsSepBNHead": dict(type="RTMDetSepBNHead", with_objectness=False, exp_on_reg=True)}
_OF_MASKS = ("mask_head", "mask_roi_extractor", "loss_mask", "mask_size", "mask_thr_binary")


def set_classes(cfg: Config) -> None:
    """Apply the top-level `classes` to all datasets and heads.

    `classes` is 'auto' (the names in the training annotations, or in the first annotation file that exists),
    one name, or a list of names.

    Raises:
        DataError: 'auto', and no annotation file can be read.
        ConfigError: 'auto', and no dataset of the config has an annotation file; or the datasets are panoptic.
    """
    datasets = [dataset for split in SPLITS for _, dataset in find_datasets(cfg, split)]
    if any(map(has_stuff, datasets)):
        raise ConfigError(
            "The option classes names objects, and the datasets of this config are panoptic: set classes, "
            "thing_classes and stuff_classes in their metainfo, and the counts of the heads."
        )
    classes = cfg.classes
    if classes == "auto":
        for dataset in datasets:
            prepare_dataset(dataset, cfg.get("draw", False))
        files = [file for dataset in datasets if (file := dataset_paths(dataset)[0])]
        if not files:
            raise ConfigError("classes='auto' needs train_dataloader.dataset.ann_file: name one, or the classes.")
        # In the order of the file, not of the ids: that is the order of MMDetection's labels.
        classes = read_annotations(next(filter(os.path.isfile, files), files[0])).categories
    cfg.classes = classes = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
    for dataset in datasets:
        # no palette = random colors; the one of the dataset's class may be shorter than the classes
        palette = {} if is_semantic(dataset) else {"palette": None}  # MMSegmentation looks after that by itself
        dataset["metainfo"] = {**palette, **(dataset.get("metainfo") or {}), "classes": classes}
    for _, head, key in heads_with_classes(cfg):
        head[key] = len(classes)
        weights = (head.get("loss_cls") or {}).get("class_weight")
        if key == "num_things_classes" and weights:  # one for each class, then one for no object
            head["loss_cls"]["class_weight"] = [1.0] * len(classes) + [weights[-1]]


def heads_with_classes(cfg: Config) -> Iterator[tuple[str, dict, str]]:
    """Yield (dotted path, config, key) of the model's parts in which a key counts the object classes."""
    if "language_model" in (cfg.get("model") or {}):  # there it is the length of the text
        return
    for path, node in walk(cfg.get("model"), "model"):
        if set(path.split(".")) & set(_OTHER_CLASSES):
            continue
        # Mask2Former counts things and stuff apart, for instances, too; heads of panoptic models have both sorts.
        for key in ("num_classes", "num_things_classes"):
            if key in node:
                yield path, node, key


def leave_out_masks(cfg: Config) -> None:
    """For the top-level `with_mask=False`, take masks out of the model, the loading and the metrics.

    Raises:
        ConfigError: The model finds its objects by their masks.
    """
    kind = type_name(cfg.get("model") or {})
    if kind not in _WITHOUT_MASKS:
        raise ConfigError(
            f"with_mask=False: {kind} has no form without masks; take a config that needs none, such as "
            "faster_rcnn_shuffle_t_coco (`localvit configs` lists all)."
        )
    changed = False
    cfg.model.type = _MODELS.get(kind, kind)
    for _, node in walk(cfg.model):
        for key in _OF_MASKS:
            changed |= node.pop(key, None) is not None
        node.update(_BOX_HEADS.get(type_name(node), {}))
        if node.get("pad_mask"):
            node["pad_mask"] = False
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
    return type_name(cfg.get("model") or {}) in _WITHOUT_MASKS


def set_pretrained(cfg: Config) -> None:
    """Let the backbone start from the checkpoint that the top-level `pretrained` names.

    With `warm_start` the checkpoint is of that other network. 'official' stands for the address of the file that the
    backbone's authors published.

    Raises:
        ConfigError: The model has no backbone, or `warm_start` has no file.
        CheckpointError: There is no official file, or it cannot be downloaded without a browser.
    """
    if not cfg.get("pretrained"):
        raise ConfigError(f"warm_start={cfg.warm_start} needs pretrained, the file to start from: give both.")
    backbones = [node["backbone"] for _, node in walk(cfg.get("model")) if isinstance(node.get("backbone"), dict)]
    official = cfg.pretrained == OFFICIAL and not os.path.exists(OFFICIAL)
    if not backbones:
        raise ConfigError(f"pretrained={cfg.pretrained} has no effect: the model of the config has no backbone.")
    for backbone in backbones:
        cls = registered(MODELS, backbone)
        file = official_address(cls, backbone, bool(cfg.get("warm_start"))) if official else cfg.pretrained
        backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": file}
        if cfg.get("warm_start"):
            backbone["init_cfg"]["warm_start"] = cfg.warm_start


def match_channels(cfg: Config, typed: Sequence[str] = ()) -> None:
    """Let the neck's or the heads' `in_channels` follow the backbone in every model of a config.

    Args:
        typed: Dotted keys of the options: what they say stays, and preflight reports what does not fit.
    """
    for place, part, wanted, backbone in unfit_channels(cfg):
        if place not in typed:
            print_log(f"{place} follows the backbone {backbone}: {wanted} instead of {part['in_channels']}.", "current")
            part["in_channels"] = wanted


def unfit_channels(cfg: Mapping[str, Any]) -> Iterator[tuple[str, dict, list[int] | int, str]]:
    """Yield where `in_channels` do not fit the backbone: dotted key, the part, what it needs, the backbone's type."""
    for path, node in walk(cfg.get("model"), "model"):
        channels = known_channels(node.get("backbone"))
        if channels is None:
            continue
        for key, part in readers(node):
            present, wanted = compared_channels(part, channels)
            if wanted is not None and present != wanted:
                yield f"{path}.{key}.in_channels", part, wanted, node["backbone"]["type"]


def readers(node: dict) -> Iterator[tuple[str, dict]]:
    """Yield (key, config) of the parts of a model that read the backbone's feature maps."""
    if necks := node.get("neck"):
        neck, head = necks[0] if isinstance(necks, (list, tuple)) else necks, node.get("head")
        channels = neck.get("in_channels") if isinstance(neck, dict) else None
        if isinstance(channels, (list, tuple)) and type_name(neck) != "RFP":  # it takes the image as a first map
            yield "neck", neck
        elif neck is necks and channels is None and isinstance(head, dict) and isinstance(head.get("in_channels"), int):
            yield "head", head  # of a classifier of MMPretrain, whose neck pools: it reads the last map's channels
        # MMSegmentation's auxiliary heads read what is behind the neck.
        return
    for key in _HEADS:
        heads = node.get(key)
        for index, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
            if isinstance(head, dict) and "in_channels" in head:
                yield key if head is heads else f"{key}.{index}", head


def known_channels(backbone: dict | None) -> tuple[int, ...] | None:
    """Return the channels of a backbone's outputs as far as they are known without building it."""
    if not isinstance(backbone, dict) or not isinstance(backbone.get("type"), str):
        return None
    name = backbone["type"].removeprefix("mmdet.")
    indices = backbone.get("out_indices", (0, 1, 2, 3))
    # without import_from_location, which imports all of MMDetection's models: ours are there
    cls = MODELS.module_dict.get(name)
    if hasattr(cls, "out_channels_of"):
        try:
            return tuple(cls.out_channels_of(backbone))
        except (ValueError, TypeError, LookupError):  # a mistake that preflight reports
            return None
    if name == "SwinTransformer" and "arch" not in backbone:  # MMPretrain's, of the same name, has one
        return tuple(backbone.get("embed_dims", 96) * 2**i for i in indices)
    if name in ("PyramidVisionTransformer", "PyramidVisionTransformerV2"):
        heads = backbone.get("num_heads", (1, 2, 5, 8))
        return tuple(backbone.get("embed_dims", 64) * heads[i] for i in indices)
    if name in ("ResNet", "ResNetV1d", "ResNeXt"):
        expansion = 1 if backbone.get("depth") in (18, 34) else 4
        return tuple(backbone.get("base_channels", 64) * expansion * 2**i for i in indices)
    return None


def compared_channels(part: Mapping, channels: Sequence[int]) -> tuple[Any, list[int] | int | None]:
    """Return `in_channels` as it is, and as it has to be, or None where it is not known which maps a part reads."""
    index, present = part.get("in_index", -1), part["in_channels"]  # MMSegmentation's default, and a classifier's
    if isinstance(present, (list, tuple)):
        wanted = [channels[i] for i in index] if isinstance(index, (list, tuple)) else [*channels]
        return [*present], wanted[::-1] if type_name(part) == "YOLOV3Neck" else wanted  # which counts from the deepest
    return present, channels[index] if isinstance(index, int) else None
