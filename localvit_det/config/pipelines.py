"""Everything that reads or rewrites the pipelines of a config: sizes, augmentation, and what images pass in inference.

The augmentations themselves are in `configs/_base_/augmentation.py`, those with names in `configs/_base_/augment.py`.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import mmcv
import numpy as np
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log

from ..config_names import config_folder, type_name
from ..errors import ConfigError, did_you_mean
from .utils import SPLITS, find_datasets, is_coco, parts_of, registered, walk

SCORE = 0.3  # objects below are not worth showing

Size = tuple[int, int]  # width, height
_MIN, _MAX = 32, 10_000
_STEP = 32  # pixels, to whose multiples squares are rounded
_MIXED = "MultiImageMixDataset"
_RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")
# Transforms of a fixed size, their key, and whether it holds (height, width).
_FIXED = {
    "Pad": ("size", False),
    "CachedMosaic": ("img_scale", False),
    "Mosaic": ("img_scale", False),
    "MaskedMosaic": ("img_scale", False),
    "CachedMixUp": ("img_scale", False),
    "MixUp": ("img_scale", False),
    "RandomCrop": ("crop_size", False),
    "BatchFixedSizePad": ("size", True),
}


def scale_images(cfg: Config, typed: Sequence[str], as_in_tests: bool = False) -> None:
    """Scale images to fit into the top-level `image_size`, in training and in testing.

    A number N is a square of N×N; 640x480 is width and height. Where training has several sizes, the largest takes this
    one and the others keep their ratio to it; crops and mosaics are scaled alike.

    Args:
        typed: Dotted keys of the options.
        as_in_tests: Without `image_size`, let a training that scales nothing take the size of the tests.

    Raises:
        ConfigError: It is no size, or nothing in the config loads images for a detector.
    """
    if cfg.get("image_size") is None and not as_in_tests:
        return
    pipelines = list(_pipelines(cfg))
    scales = any(_resizes(steps) for is_training, steps in pipelines if is_training)
    tested = _test_size(cfg)
    if cfg.get("image_size") is None:
        size = None if scales else tested
        why = ", the size of the config's tests (image_size=… sets another)"
    else:
        # In MMDetection's own configs this name is that of the size of a crop, which is in use already.
        if "image_size" not in typed and is_crop(cfg):
            return
        size, why = _read_size(cfg.image_size), ""
    if size is None:
        return
    if not pipelines or cfg.get("default_scope", "mmdet") != "mmdet":
        raise ConfigError(
            f"image_size={cfg.get('image_size')} has no effect: no dataset of a detector is in the config."
        )
    pads = list(parts_of(cfg.get("model"), "BatchFixedSizePad"))
    several, padded = False, _fixed_size(pads[0]) if pads else None
    _scale_augmented_test(cfg.get("tta_pipeline"), tested, size)
    for is_training, pipeline in pipelines:
        if not is_training:
            _scale_test(pipeline, size)
        elif scales:
            several |= scale_training(pipeline, size, padded)
        else:
            _insert_resize(pipeline, size)
    if padded:
        for pad in pads:
            _scale_fixed(pad, padded, size)
    cfg.image_size = size
    more = ", and to smaller sizes in training, as the config has several" if several else ""
    print_log(f"Images are scaled to fit into {size[0]}x{size[1]}, ratio kept{more}{why}.", "current")


def _read_size(value: object) -> Size:
    numbers = value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)(?:\s*[xX*,]\s*(\d+))?\s*", value)
        numbers = [int(number) for number in match.groups() if number] if match else None
    elif isinstance(value, int) and not isinstance(value, bool):
        numbers = [value]
    if isinstance(numbers, (list, tuple)) and len(numbers) in (1, 2):
        size = tuple(numbers) * (3 - len(numbers))
        if all(isinstance(one, int) and _MIN <= one <= _MAX for one in size):
            return size
    raise ConfigError(
        f"image_size={value!r} is no size: give one number for a square, or width x height (640x480), from {_MIN} to "
        f"{_MAX} pixels."
    )


def _pipelines(cfg: Config) -> Iterator[tuple[bool, list]]:
    """Yield whether a pipeline is one of training, and the pipeline, for all of a config."""
    for split in SPLITS:
        for _, dataset in find_datasets(cfg, split):
            if isinstance(dataset.get("pipeline"), list):
                yield split == "train", dataset["pipeline"]
        for _, node in walk(cfg.get(f"{split}_dataloader")):  # of wrappers that mix images
            if "dataset" in node and isinstance(node.get("pipeline"), list):
                yield split == "train", node["pipeline"]
    for hook in cfg.get("custom_hooks") or []:
        if isinstance(hook.get("switch_pipeline"), list):
            yield True, hook["switch_pipeline"]
    if isinstance(cfg.get("test_pipeline"), list):
        yield False, cfg["test_pipeline"]


def _resizes(pipeline: object) -> list[tuple[dict, list[Size]]]:
    """Return the transforms of a pipeline that scale images, and the sizes of each."""
    found = []
    for node in parts_of(pipeline, *_RESIZES):
        scales = node.get("scales", node.get("scale"))
        if isinstance(scales, (list, tuple)) and scales and not isinstance(scales[0], (list, tuple)):
            scales = [scales]
        if sizes := [tuple(one) for one in scales or [] if isinstance(one, (list, tuple)) and len(one) == 2]:
            found.append((node, sizes))
    return found


def fitting_size(cfg: Config) -> Size | None:
    """Return what images fit into: `image_size`, what batches are padded to, or the size of the tests."""
    if cfg.get("image_size") is not None:
        return _read_size(cfg.image_size)
    pad = next(parts_of(cfg.get("model"), "BatchFixedSizePad"), None)
    return _test_size(cfg) if pad is None else _fixed_size(pad)


def _test_size(cfg: Config) -> Size | None:
    found = [sizes for training, steps in _pipelines(cfg) if not training for _, sizes in _resizes(steps)]
    return found[0][0] if found else None


def is_crop(cfg: Config) -> bool:
    """Whether a training's crops have `image_size` already."""
    try:
        size = _read_size(cfg.image_size)
    except ConfigError:
        return False
    crops = [n.get("crop_size") for training, steps in _pipelines(cfg) if training for _, n in walk(steps)]
    return any(crop is not None and tuple(crop) == size for crop in crops)


def _scale_test(pipeline: list, size: Size) -> None:
    resizes = list(parts_of(pipeline, "Resize"))
    for node in resizes:
        node["scale"] = size
        node.pop("scale_factor", None)
    for node in parts_of(pipeline, "Pad"):
        if node.get("size"):
            node["size"] = size
    if not resizes:
        _insert_resize(pipeline, size)


def _scale_augmented_test(pipeline: object, reference: Size | None, size: Size) -> None:
    """Scale what `tta_pipeline` has by its ratio to the size of plain tests."""
    if reference is None:
        return
    for node, sizes in _resizes(pipeline):
        node["scale"] = _scaled(sizes[0], reference, size)
    for node in parts_of(pipeline, "Pad"):
        if node.get("size"):
            _scale_fixed(node, reference, size)


def scale_training(pipeline: list, size: Size, padded: Size | None) -> bool:
    """Scale a pipeline of training; return whether it has several sizes.

    Args:
        padded: What its batches are padded to, if they are.
    """
    scaling = _resizes(pipeline)
    fixed = [node for node in parts_of(pipeline, *_FIXED) if node.get(_FIXED[type_name(node)][0])]
    # What the images of a batch are like in the end: padded to a size, else as large as the largest scale.
    padded = padded or next((_fixed_size(node) for node in fixed if type_name(node) == "Pad"), None)
    scales = [scale for _, sizes in scaling for scale in sizes]
    reference = padded or max(scales, key=lambda scale: (min(scale), max(scale)), default=None)
    if reference is None:
        return False
    for node, sizes in scaling:
        if "scales" in node:
            node["scales"] = [_scaled(scale, reference, size) for scale in sizes]
        else:
            node["scale"] = _scaled(sizes[0], reference, size)
    for node in fixed:
        _scale_fixed(node, reference, size)
    return len(set(scales)) > 1 or any("ratio_range" in node for node, _ in scaling)


def _scaled(scale: Size, reference: Size, size: Size) -> Size:
    """Return a scale with the ratio to `size` that it had to the reference; the order of its sides means nothing."""
    short = max(1, round(min(size) * min(scale) / min(reference)))
    return round(size[0] * short / min(size)), round(size[1] * short / min(size))


def _fixed_size(node: dict) -> Size:
    key, reversed_ = _FIXED[type_name(node)]
    size = tuple(node[key])
    return size[::-1] if reversed_ else size


def _scale_fixed(node: dict, reference: Size, size: Size) -> None:
    key, reversed_ = _FIXED[type_name(node)]
    if node.get("crop_type", "absolute").startswith("relative"):
        return
    if node.get("crop_type") == "absolute_range":  # the least and the most of either side
        node[key] = tuple(max(1, round(min(size) * one / min(reference))) for one in node[key])
        return
    new = _scaled(_fixed_size(node), reference, size)
    node[key] = new[::-1] if reversed_ else new


def _insert_resize(pipeline: list, size: Size) -> None:
    loading = [i for i, node in enumerate(pipeline) if type_name(node).startswith("Load")]
    pipeline.insert(loading[-1] + 1 if loading else 0, {"type": "Resize", "scale": size, "keep_ratio": True})


def set_augmentation(cfg: Config) -> None:
    """Put the recipe of the top-level `augment` between loading and packing of the training's pipeline.

    Raises:
        ConfigError: There is no such recipe, or it cannot work with this config.
    """
    name = cfg.augment
    recipes = Config.fromfile(config_folder() / "_base_/augment.py", import_custom_modules=False).augment
    if name not in recipes:
        raise ConfigError(f"augment={name} is none of {', '.join(recipes)}{did_you_mean(name, recipes)}: give one.")
    recipe = copy.deepcopy(recipes[name])
    mixing = next((i for i, step in enumerate(recipe) if hasattr(registered(TRANSFORMS, step), "get_indexes")), None)
    found = [dataset for _, dataset in find_datasets(cfg, "train")]
    size = fitting_size(cfg)
    if len(found) != 1 or size is None or not is_coco(found[0]):
        raise ConfigError(f"augment={name} needs a detector that trains on one dataset in COCO's format: leave it out.")
    if any(parts_of(cfg.get("custom_hooks"), "PipelineSwitchHook")):
        raise ConfigError(
            f"augment={name} does not work with a config whose PipelineSwitchHook changes the pipeline in the middle, "
            "as RTMDet's does, which has mosaics of its own: leave it out."
        )
    dataset = _unwrapped(cfg, found[0])
    loading = [step for step in dataset["pipeline"] if type_name(step).startswith("Load")]
    if mixing is not None and any("Panoptic" in type_name(step) or step.get("with_seg") for step in loading):
        raise ConfigError(f"augment={name} mixes images, which has no place for label maps: give lsj or crop.")
    if "paste" in name and not any(step.get("with_mask") for step in loading):
        raise ConfigError(f"augment={name} pastes objects by their masks, and the config loads none: give mosaic.")
    if any(step.get("crop_size") for step in recipe):  # of squares
        size = (max(_STEP, round((size[0] * size[1]) ** 0.5 / _STEP) * _STEP),) * 2
    scale_training(recipe, size, None)
    packing = [step for step in dataset["pipeline"] if type_name(step).startswith("Pack")]
    if mixing is None:
        dataset["pipeline"] = [*loading, *recipe, *packing]
    else:
        inner = {**dataset, "pipeline": [*loading, *recipe[:mixing]]}
        dataset.clear()
        dataset.update(type=_MIXED, dataset=inner, pipeline=[*recipe[mixing:], *packing])
    print_log(f"augment={name}: {', '.join(map(type_name, recipe))}.", "current")


def _unwrapped(cfg: Config, dataset: dict) -> dict:
    """Return the dataset, out of the wrapper that this module has put round it in a config that was saved."""
    for node in parts_of(cfg.train_dataloader, _MIXED):
        if node.get("dataset") is dataset:
            packing = [step for step in node["pipeline"] if type_name(step).startswith("Pack")]
            inner = {**dataset, "pipeline": [*dataset["pipeline"], *packing]}
            node.clear()
            node.update(inner)
            return node
    return dataset


def load_bitmaps(cfg: Config) -> None:
    """Let pipelines that keep polygons load masks of any kind: brushes draw no polygons."""
    for _, node in walk(cfg._cfg_dict):
        if node.get("with_mask") and node.get("poly2mask") is False:
            node["poly2mask"] = True


def task_of(pipeline: Sequence[dict]) -> str:
    """Return what a detector is for, by what its test pipeline loads with the image."""
    kinds = {type_name(step): step for _, step in walk(pipeline) if "type" in step}
    if "LoadPanopticAnnotations" in kinds:
        return "panoptic segmentation"
    with_mask = kinds.get("LoadAnnotations", {}).get("with_mask")
    return "instance segmentation" if with_mask else "object detection"


def image_pipeline(cfg: Config, size: tuple[int, int] | None = None) -> Compose:
    """Return the steps of the config's test pipeline between reading an image and the model.

    Args:
        size: Height and width inside which images have to fit; by default they get the config's size.
    """
    dataset = next((one for _, one in find_datasets(cfg, "test")), None)
    steps = (dataset or {}).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise ConfigError("The config has no test pipeline: name a config with a test_dataloader.")
    loading = ("LoadImageFrom", "LoadAnnotations", "LoadPanoptic")
    return Compose([step for step in fitting(steps, size) if not type_name(step).startswith(loading)])


def prepare(pipeline: Compose, image: np.ndarray, source: str = "") -> dict[str, Any]:
    """Return an image as `test_step` takes it: 'inputs' of (3, H, W) in uint8, and 'data_samples'."""
    size = image.shape[:2]
    return pipeline({"img": image, "img_path": source, "img_id": 0, "img_shape": size, "ori_shape": size})


@TRANSFORMS.register_module()
class FitInside(Resize):
    """Resizes an image so that it just fits inside a fixed size, whatever its shape.

    Args:
        size: Height and width, in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(scale=size[::-1], keep_ratio=True)
        self.size = tuple(size)

    def _resize_img(self, results: dict) -> None:
        """Take the scale from the image: MMCV's own fits its longer side to the longer one, lying or standing."""
        height, width = results["img"].shape[:2]
        factor = min(self.size[0] / height, self.size[1] / width)
        new = min(int(width * factor + 0.5), self.size[1]), min(int(height * factor + 0.5), self.size[0])
        image, x, y = mmcv.imresize(results["img"], new, return_scale=True, backend=self.backend)
        results.update(img=image, img_shape=image.shape[:2], scale_factor=(x, y), keep_ratio=True)


def fitting(pipeline: Sequence[dict], size: tuple[int, int] | None) -> list[dict]:
    """Return a test pipeline whose images an exported model of a fixed size takes; as it is where any size is taken.

    Raises:
        ConfigError: Nothing in it resizes.
    """
    if size is None:
        return list(pipeline)
    kinds = [type_name(step) for step in pipeline]
    if "Resize" not in kinds:
        raise ConfigError(
            "The test pipeline has no Resize, which a detector of a fixed size needs: export without --size."
        )
    place = kinds.index("Resize")
    # RTMDet pads by itself to the size that it resizes to.
    rest = [
        {**step, "size": tuple(size[::-1])} if type_name(step) == "Pad" and "size" in step else step
        for step in pipeline[place + 1 :]
    ]
    return [*pipeline[:place], {"type": "FitInside", "size": tuple(size)}, *rest]
