"""One `image_size` for the pipelines of training and testing."""

import re
from collections.abc import Iterator, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import ConfigError
from .parts import find_datasets, walk

Size = tuple[int, int]  # width, height
_SPLITS = ("train", "val", "test")
_MIN, _MAX = 32, 10_000
_RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")
# Transforms of a fixed size, their key, and whether it holds (height, width).
_FIXED = {
    "Pad": ("size", False),
    "CachedMosaic": ("img_scale", False),
    "Mosaic": ("img_scale", False),
    "CachedMixUp": ("img_scale", False),
    "MixUp": ("img_scale", False),
    "RandomCrop": ("crop_size", False),
    "BatchFixedSizePad": ("size", True),
}


def use_image_size(cfg: Config, typed: Sequence[str], as_in_tests: bool = False) -> None:
    """Lets images be scaled to fit into the top-level `image_size`, in training and in testing.

    A number N is a square of N×N; 640x480 is width and height. Where training has several sizes, the largest takes this
    one and the others keep their ratio to it; crops and mosaics are scaled alike.

    Args:
        typed: Dotted keys of the options.
        as_in_tests: Without `image_size`, let a training that scales nothing take the size of the tests.

    Raises:
        ConfigError: It is no size, or nothing in the config loads images for a detector.
    """
    if cfg.get("image_size") is None:
        size = _test_size(cfg) if as_in_tests and not _scales(cfg) else None
        why = ", the size of the config's tests (image_size=… sets another)"
    else:
        # In MMDetection's own configs this name is that of the size of a crop, which is in use already.
        if "image_size" not in typed and _is_crop(cfg):
            return
        size, why = _read(cfg.image_size), ""
    if size is None:
        return
    pipelines = list(_pipelines(cfg))
    if not pipelines or cfg.get("default_scope", "mmdet") != "mmdet":
        raise ConfigError(
            f"image_size={cfg.get('image_size')} has no effect: no data set of a detector is in the config."
        )
    scales, pads = _scales(cfg), [node for _, node in walk(cfg.get("model")) if _kind(node) == "BatchFixedSizePad"]
    several, padded = False, _fixed_size(pads[0]) if pads else None
    _scale_augmented_test(cfg, size)
    for is_training, pipeline in pipelines:
        if not is_training:
            _scale_test(pipeline, size)
        elif scales:
            several |= _scale_training(pipeline, size, padded)
        else:
            _insert_resize(pipeline, size)
    if padded:
        for pad in pads:
            _scale_fixed(pad, padded, size)
    cfg.image_size = size
    more = ", and to smaller sizes in training, as the config has several" if several else ""
    print_log(f"Images are scaled to fit into {size[0]}x{size[1]}, ratio kept{more}{why}.", "current")


def _read(value: object) -> Size:
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
    """Every pipeline of a config, and whether it is one of training."""
    for split in _SPLITS:
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


def _kind(node: dict) -> str:
    return str(node.get("type")).rpartition(".")[2]


def _scales_of(node: dict) -> list[Size]:
    """The sizes of a transform that scales images."""
    if _kind(node) not in _RESIZES:
        return []
    scales = node.get("scales", node.get("scale"))
    if isinstance(scales, (list, tuple)) and scales and not isinstance(scales[0], (list, tuple)):
        scales = [scales]
    return [tuple(scale) for scale in scales or [] if isinstance(scale, (list, tuple)) and len(scale) == 2]


def _test_size(cfg: Config) -> Size | None:
    sizes = [
        scale for training, steps in _pipelines(cfg) if not training for _, n in walk(steps) for scale in _scales_of(n)
    ]
    return sizes[0] if sizes else None


def _scales(cfg: Config) -> bool:
    """Whether a training scales images."""
    return any(training and any(_scales_of(n) for _, n in walk(steps)) for training, steps in _pipelines(cfg))


def _is_crop(cfg: Config) -> bool:
    """Whether a training's crops have `image_size` already."""
    try:
        size = _read(cfg.image_size)
    except ConfigError:
        return False
    crops = [n.get("crop_size") for training, steps in _pipelines(cfg) if training for _, n in walk(steps)]
    return any(crop is not None and tuple(crop) == size for crop in crops)


def _scale_test(pipeline: list, size: Size) -> None:
    found = False
    for _, node in walk(pipeline):
        if _kind(node) == "Resize":
            node["scale"] = size
            node.pop("scale_factor", None)
            found = True
        elif _kind(node) == "Pad" and node.get("size"):
            node["size"] = size
    if not found:
        _insert_resize(pipeline, size)


def _scale_augmented_test(cfg: Config, size: Size) -> None:
    """Scales what `tta_pipeline` has beside the size of plain tests; call it before those are scaled."""
    reference = _test_size(cfg)
    for _, node in walk(cfg.get("tta_pipeline")):
        if reference and _scales_of(node):
            node["scale"] = _scaled(_scales_of(node)[0], reference, size)
        elif reference and _kind(node) == "Pad" and node.get("size"):
            _scale_fixed(node, reference, size)


def _scale_training(pipeline: list, size: Size, padded: Size | None) -> bool:
    """Scales a pipeline of training; returns whether it has several sizes.

    Args:
        padded: What its batches are padded to, if they are.
    """
    scaling = [node for _, node in walk(pipeline) if _scales_of(node)]
    fixed = [node for _, node in walk(pipeline) if _kind(node) in _FIXED and node.get(_FIXED[_kind(node)][0])]
    # What the images of a batch are like in the end: padded to a size, else as large as the largest scale.
    padded = padded or next((_fixed_size(node) for node in fixed if _kind(node) == "Pad"), None)
    scales = [scale for node in scaling for scale in _scales_of(node)]
    reference = padded or max(scales, key=lambda scale: (min(scale), max(scale)), default=None)
    if reference is None:
        return False
    for node in scaling:
        if _kind(node) == "RandomChoiceResize":
            node["scales"] = [_scaled(scale, reference, size) for scale in _scales_of(node)]
        else:
            node["scale"] = _scaled(_scales_of(node)[0], reference, size)
    for node in fixed:
        _scale_fixed(node, reference, size)
    return len(set(scales)) > 1 or any("ratio_range" in node for node in scaling)


def _scaled(scale: Size, reference: Size, size: Size) -> Size:
    """A scale with the ratio to `size` that it had to the reference; the order of its sides means nothing."""
    short = max(1, round(min(size) * min(scale) / min(reference)))
    return round(size[0] * short / min(size)), round(size[1] * short / min(size))


def _fixed_size(node: dict) -> Size:
    key, reversed_ = _FIXED[_kind(node)]
    size = tuple(node[key])
    return size[::-1] if reversed_ else size


def _scale_fixed(node: dict, reference: Size, size: Size) -> None:
    key, reversed_ = _FIXED[_kind(node)]
    if node.get("crop_type", "absolute").startswith("relative"):
        return
    if node.get("crop_type") == "absolute_range":  # the least and the most of either side
        node[key] = tuple(max(1, round(min(size) * one / min(reference))) for one in node[key])
        return
    new = _scaled(_fixed_size(node), reference, size)
    node[key] = new[::-1] if reversed_ else new


def _insert_resize(pipeline: list, size: Size) -> None:
    loading = [i for i, node in enumerate(pipeline) if _kind(node).startswith("Load")]
    pipeline.insert(loading[-1] + 1 if loading else 0, {"type": "Resize", "scale": size, "keep_ratio": True})
