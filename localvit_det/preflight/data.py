"""Annotation files and images of COCO-format datasets."""

import logging
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log

from ..config.model import can_leave_masks
from ..config.utils import dataset_paths, find_datasets, is_coco, is_semantic, prepare_dataset, registered, walk
from ..datasets.annotations import IGNORED, MAX_PIXELS, read_annotations
from ..datasets.images import PixelRange, pixel_range_of
from ..datasets.layouts import absent_images
from ..datasets.splits import explain
from ..datasets.summary import NO_IMAGE, Annotations
from ..errors import ConfigError, DataError, UserError, did_you_mean
from ..files import what_is_there
from .classes import check_classes, dataset_classes
from .images import check_maps, check_panoptic_maps, check_sample

_FIX = "correct or remove them"
_OBJECTS = "crowds_as_objects=True"
_MANY_CROWDS = 0.05  # of the annotations: COCO has 0.012


def find_problems(cfg: Config, *splits: str) -> Iterator[UserError]:
    """Check the datasets of some splits and the annotations that their evaluators read, and yield each mistake.

    Class names are checked until they are wrong in a dataset: those of others are the same.

    Yields:
        ConfigError: The type of a dataset is unknown.
        DataError: Something is missing, empty or malformed.
    """
    limit, pixel_range = cfg.get("max_pixels", MAX_PIXELS), pixel_range_of(cfg.get("pixel_range"))
    optional = can_leave_masks(cfg)
    wrong_names: list[UserError] = []
    for split in splits:
        evaluators = list(walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"))
        scored = split != "train" and not any(node.get("format_only") for _, node in evaluators)
        segm = scored and any("segm" in (node.get("metric") or ()) for _, node in evaluators)
        listed: dict = {}
        files: list[str | None] = []
        for path, dataset in find_datasets(cfg, split):
            file, image_dir = dataset_paths(dataset)
            files.append(file)
            try:
                found = _annotations(path, dataset, file, image_dir, cfg.get("draw", False))
            except UserError as mistake:
                yield mistake
                continue
            if found is None:
                check = check_maps if is_semantic(dataset) else check_panoptic_maps
                yield from _raised(partial(check, path, dataset, limit))
                continue
            listed |= {identity: name for identity, (name, _, _) in found.images.items()}
            masks = segm or any(node.get("with_mask") for _, node in walk(dataset.get("pipeline")))
            yield from _raised(
                partial(_check_sizes, found, limit),
                partial(_check_images, path, found, image_dir, limit, pixel_range),
            )
            wrong = list(_raised(partial(_check_boxes, found, scored)))
            if not wrong_names:
                wrong_names += _raised(partial(check_classes, path, dataset, found))
                wrong += wrong_names
            yield from wrong
            if (split == "train" or scored) and not wrong:  # which would be why there are no objects
                yield from _raised(partial(_check_not_empty, path, dataset, found))
            yield from _raised(
                partial(_check_masks, found, masks, scored, segm),
                partial(_check_run_lengths, path, dataset, found),
                partial(_report_crowds, split, found),
                partial(_check_keys, path, found, masks, scored, optional),
                partial(_report_left_out, split, path, dataset, found),
            )
        yield from _raised(*(partial(_check_evaluator, path, node, listed, files) for path, node in evaluators))


def _raised(*checks: Callable[[], None]) -> Iterator[UserError]:
    for check in checks:
        try:
            check()
        except UserError as mistake:
            yield mistake


def _annotations(
    path: str, dataset: dict, ann_file: str | None, image_dir: str | None, consent: bool
) -> Annotations | None:
    """Return what the file of a dataset says, once all is there; None where it is not read as COCO's or not local."""
    cls = registered(DATASETS, dataset)
    if cls is None:
        name = str(dataset.get("type"))
        near = did_you_mean(name, DATASETS.module_dict)
        raise ConfigError(f"{path}.type '{name}' is not a registered dataset{near}: correct it.")
    prepare_dataset(dataset, consent)
    coco = is_coco(dataset, plain=True)
    hint = {"root": dataset.get("data_root"), "name": dataset.get("ann_file")} if coco else {}
    _check_exists(path, "annotation file", ann_file, **hint)
    _check_exists(path, "image folder", image_dir, **hint)
    if ann_file is None and image_dir is None:  # MMPretrain's ImageNet has folders of its own below its root
        _check_exists(path, "data folder", dataset_paths({"data_prefix": {"img": dataset.get("data_root")}})[1])
    return read_annotations(ann_file) if ann_file is not None and coco else None


def _check_exists(path: str, what: str, place: str | None, root: str | None = None, name: str | None = None) -> None:
    """Check that a file or folder is there.

    Args:
        root: The dataset's, if it is one in COCO's format.
        name: Its annotation file.
    """
    if place is None or (os.path.isdir if what.endswith("folder") else os.path.isfile)(place):
        return
    full = Path(place).absolute()
    raise DataError(f"The {what} of {path} is missing at {full}; {what_is_there(full)}: {explain(root, name)}.")


def _check_sizes(found: Annotations, max_pixels: float) -> None:
    for identity, (name, width, height) in found.images.items():
        if width * height > max_pixels:
            raise DataError(
                f"The annotation file {found.path} has the image id {identity} ({name}) with the size {width} x "
                f"{height}, over {max_pixels:,.0f} pixels: correct its size, cut the image into parts, or "
                "allow as many with --cfg-options max_pixels=N."
            )


def _check_images(
    path: str, found: Annotations, image_dir: str | None, max_pixels: float, pixel_range: PixelRange | None
) -> None:
    if image_dir is None:
        return
    if found.same_files:
        print_log(
            f"{found.path} lists {len(found.same_files)} image files under several ids, the first one is "
            f"{found.same_files[0]}: each counts as an image.",
            "current",
            logging.WARNING,
        )
    absent = absent_images(image_dir, (name for name, _, _ in found.images.values()))
    if absent:
        first = os.path.abspath(os.path.join(image_dir, absent[0]))
        raise DataError(
            f"{len(absent)} of the {len(found.images)} images that {found.path} lists are absent, the "
            f"first one is {first}: complete them, or correct data_prefix.img of {path}."
        )
    check_sample(path, found, image_dir, max_pixels, pixel_range)


def _check_boxes(found: Annotations, scored: bool) -> None:
    """Check boxes by the rules of scoring, where they are scored, else by those of the training loader."""
    unused = found.unscored if scored else found.faults
    harmless = (NO_IMAGE,) if scored else (IGNORED,)  # a part of a file often keeps the annotations of all images
    bad = unused.count() - sum(unused.counts[reason] for reason in harmless)
    if 2 * max(bad, found.over_edge, found.like_fractions) > found.boxes:
        if 2 * found.like_fractions > found.boxes:
            likely = "they look like fractions of the image's size: multiply them by its width and height"
        elif found.like_corners >= 0.9 * found.boxes:
            likely = "they look like [x1, y1, x2, y2]: COCO has [x, y, width, height]"
        else:
            likely = "correct the file: COCO has [x, y, width, height] in pixels of the image"
        edge = f"{found.over_edge} run over the edge of their image" if found.over_edge else ""
        raise DataError(
            f"Most of the {found.boxes} annotations in {found.path} are unusable "
            f"({', '.join(filter(None, (unused.summary(), edge)))}); {likely}."
        )
    if found.errors:
        raise DataError(f"Of the {found.boxes} annotations in {found.path} {found.errors.summary()}: {_FIX}.")
    parts = []
    if unused:
        what = "Scoring leaves out" if scored else "MMDetection will skip"
        parts.append(f"{what} {unused.count()} of the {found.boxes} annotations in {found.path}: {unused.summary()}")
    if scored and found.neutral:
        count, of = found.neutral.count(), f" of the {found.boxes} annotations in {found.path}" * (not unused)
        parts.append(f"{count}{of} count neither as found nor as missed: {found.neutral.summary()}")
    if parts:
        print_log(f"{'; '.join(parts)}.", "current", logging.WARNING)


def _check_masks(found: Annotations, used: bool, scored: bool, segm: bool) -> None:
    if found.mask_errors and used:
        raise DataError(f"Of the {found.boxes} annotations in {found.path} {found.mask_errors.summary()}: {_FIX}.")
    if segm and found.mask_unscored:
        count = found.mask_unscored.count()
        what = f"Scoring of masks leaves out {count} of the {found.boxes} annotations in {found.path}"
        print_log(f"{what}: {found.mask_unscored.summary()}.", "current", logging.WARNING)
    elif found.mask_faults and used and not scored:
        print_log(
            f"MMDetection will skip polygons of the {found.boxes} annotations in {found.path}: "
            f"{found.mask_faults.summary()}.",
            "current",
            logging.WARNING,
        )


def _check_run_lengths(path: str, dataset: dict, found: Annotations) -> None:
    """Refuse masks that a pipeline of polygons leaves out without a word."""
    for place, step in walk(dataset.get("pipeline"), f"{path}.pipeline"):
        if found.rle and step.get("with_mask") and step.get("poly2mask") is False:
            raise DataError(
                f"{found.rle} of the {found.boxes} annotations in {found.path} have RLE masks, which {place} leaves "
                f"out, since it takes polygons alone: set {place}.poly2mask=True."
            )


def _report_crowds(split: str, found: Annotations) -> None:
    usable = found.boxes - found.faults.count()
    if found.crowds > _MANY_CROWDS * usable and found.crowds < usable:
        what = "nothing is learnt from them" if split == "train" else "nothing is scored on them"
        print_log(
            f"{split}: {found.crowds} of {usable} objects in {found.path} ({found.crowds / usable:.0%}) are marked as "
            f"crowds (iscrowd 1, as brush tools write it): {what}; {_OBJECTS} takes them as objects.",
            "current",
            logging.WARNING,
        )


def _check_not_empty(path: str, dataset: dict, found: Annotations) -> None:
    if not found.images:
        raise DataError(f"{found.path} lists no images: give {path} another ann_file.")
    classes = dataset_classes(path, dataset) or found.categories
    annotated = found.with_objects(classes)
    if not annotated.any() and found.crowds:
        raise DataError(
            f"All usable annotations of {found.path} mark crowds (iscrowd 1, {found.crowds} of them), from which "
            f"nothing is learnt and on which nothing is scored: if each is one object, take them so with {_OBJECTS}."
        )
    if not annotated.any():
        there = ", ".join([*found.categories][:5]) + (", …" if len(found.categories) > 5 else "")
        raise DataError(
            f"{found.path} has no usable annotation of the classes of {path} (its categories: {there}): take those "
            "with classes=auto, or name the ann_file that belongs to the classes."
        )
    rules = _filter_of(dataset)
    least = rules.get("min_size", 0)
    candidates = annotated if rules.get("filter_empty_gt") else [True] * len(found.images)
    if not any(min(size) >= least for (_, *size), used in zip(found.images.values(), candidates, strict=True) if used):
        raise DataError(
            f"No image of {found.path} passes {path}.filter_cfg: all are smaller than {least} pixels; lower min_size."
        )


def _filter_of(dataset: dict) -> dict:
    return {} if dataset.get("test_mode") else dataset.get("filter_cfg") or {}


def _report_left_out(split: str, path: str, dataset: dict, found: Annotations) -> None:
    """Report which images MMDetection leaves out in silence; count as `CocoDataset.filter_data` does."""
    if getattr(registered(DATASETS, dataset), "filter_data", None) is not CocoDataset.filter_data:
        return
    rules = _filter_of(dataset)
    least = rules.get("min_size", 0)
    classes = dataset_classes(path, dataset) or found.categories
    named = found.with_objects(classes, usable=False) | (not rules.get("filter_empty_gt"))
    kept = [size for (_, *size), used in zip(found.images.values(), named, strict=True) if used]
    empty, small = len(found.images) - len(kept), sum(min(size) < least for size in kept)
    reasons = [f"{empty} without objects"] * bool(empty) + [f"{small} smaller than {least} pixels"] * bool(small)
    if reasons:
        print_log(
            f"{split}: {empty + small} of {len(found.images)} images are left out: {', '.join(reasons)} "
            f"({path}.filter_cfg).",
            "current",
        )


def _check_keys(path: str, found: Annotations, masks: bool, scored: bool, optional: bool) -> None:
    if found.without_mask and masks:
        way = (
            "train on boxes alone with with_mask=False" if optional else "take a config without masks, like RetinaNet's"
        )
        raise DataError(
            f"{found.without_mask} of the {found.boxes} annotations in {found.path} have no segmentation, but {path} "
            f"loads or scores masks: {way}, or add polygons."
        )
    _check_area(found)
    if scored and found.without_iscrowd:
        raise DataError(
            f"{found.without_iscrowd} annotations in {found.path} lack the key iscrowd, which the COCO "
            'evaluation needs: add "iscrowd": 0 to each.'
        )


def _check_area(found: Annotations) -> None:
    if found.without_area:
        raise DataError(
            f'{found.without_area} annotations in {found.path} lack the key area, which MMDetection needs: add "area", '
            "in pixels, to each."
        )


def _check_evaluator(path: str, evaluator: dict, listed: dict, files: Collection[str | None]) -> None:
    """Check that an evaluator's annotation file, if it is another one, has the images of the datasets.

    Args:
        files: Annotation files of the datasets, which are reported already where they are absent.
    """
    file = dataset_paths({"ann_file": evaluator.get("ann_file")})[0]
    if file is None or (file in files and not os.path.isfile(file)):
        return
    _check_exists(path, "annotation file", file)
    if not listed:
        return
    found = read_annotations(file)  # read again only if it is another file than the dataset's
    if file not in files:
        _check_area(found)
    own = found.images
    place = f"{path}.ann_file {os.path.abspath(file)}"
    if missing := listed.keys() - own.keys():
        raise DataError(
            f"{place} lacks {len(missing)} of the {len(listed)} images "
            "of its dataset: give both the same annotation file."
        )
    base = os.path.basename
    renamed = [name for identity, name in listed.items() if base(own[identity][0]) != base(name)]
    if renamed:
        raise DataError(
            f"{place} has other images under the ids of {len(renamed)} of the {len(listed)} images of its dataset "
            f"(first file_name: {renamed[0]}): give both the same annotation file."
        )
    if len(own) > len(listed):
        print_log(f"{place} has {len(own)} images, of which the {len(listed)} of its dataset are scored.", "current")
