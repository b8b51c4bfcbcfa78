"""Datasets in formats of others, converted to COCO's; `supervision` reads their labels (the extra `convert`).

supervision's own datasets are not used: they draw polygons into masks, decode every image, sort the classes, know no
splits, and stop at the first broken image.
"""

import filecmp
import json
import logging
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from mmengine.logging import print_log

from ...errors import DataError, OutputError, UserError, printable
from ...files import atomic_folder, write_text
from ..images import BrokenImageError, read_header
from .base import Converter, Label
from .voc import Voc
from .yolo import Yolo

__all__ = ["CONVERTERS", "Converter", "Label", "convert_dataset", "find_converter"]

CONVERTERS: list[type[Converter]] = [Yolo, Voc]  # the first one that recognizes a folder takes it
_UNLABELLED, _KEYPOINTS = "unlabelled", "keypoints"  # what is counted


def find_converter(root: Path) -> type[Converter] | None:
    """Return the converter for the format that a folder is in, None where it is in none of them."""
    return next((converter for converter in CONVERTERS if converter.recognizes(root)), None)


def convert_dataset(
    source: str | os.PathLike, target: str | os.PathLike, left_out: dict[str, str] | None = None
) -> str:
    """Write `annotations/instances_SPLIT.json` for each split, and link (or else copy) the images next to it.

    Boxes are those of the source, in pixels; polygons stay polygons.

    Args:
        source: The folder of the dataset.
        target: A new folder.
        left_out: Gets the images that cannot be used, each with the reason.

    Returns:
        What was written, a line for each split, and which labels were left out.

    Raises:
        DataError: The source is in no known format, a label in it cannot be read, or none of its images can be used.
        OutputError: The target is there already, or cannot be written.
        RequirementError: supervision is not installed.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target.absolute()} is there already: name a folder that is not.")
    left_out = {} if left_out is None else left_out
    converter, splits = _listed(source)
    lines, classes = [f"{converter.name}, {len(splits)} splits: {target}"], list(converter.classes)
    try:
        with atomic_folder(target) as draft:
            contents = {
                split: _write_split(converter, split, pairs, draft, classes, left_out)
                for split, pairs in splits.items()
            }
            if left_out and not any(content["images"] for content, _ in contents.values()):
                raise DataError(f"Nothing is left: {next(iter(left_out.values()))}; correct or remove it.")
            categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
            for split, (content, counts) in contents.items():
                file = draft / f"annotations/instances_{split}.json"
                write_text(file, json.dumps({**content, "categories": categories}))
                parts = [f"{len(content['images'])} images", f"{len(content['annotations'])} objects"]
                if counts[_UNLABELLED]:
                    parts.append(f"{counts[_UNLABELLED]} without a file of labels, taken as images without objects")
                if counts[_KEYPOINTS]:
                    parts.append(f"keypoints of {counts[_KEYPOINTS]} objects are left out")
                lines.append(f"{split}: {', '.join(parts)}")
    except OSError as error:
        raise OutputError(f"{target.absolute()} cannot be written ({error.strerror}): name another folder.") from error
    return "\n".join([*lines, *converter.notes])


def _listed(root: Path) -> tuple[Converter, dict[str, list[tuple[Path, Path]]]]:
    """Return the converter of a folder, and its images with their labels, without empty splits.

    Raises:
        DataError: It is in no known format, lacks its classes or images, or it is unclear whose a label is.
    """
    kind = find_converter(root)
    if kind is None:
        signs = "; ".join(f"{one.name} has {one.signs}" for one in CONVERTERS)
        raise DataError(f"{root.absolute()} is in no format that can be converted: {signs}.")
    converter = kind(root)
    splits = {split: pairs for split, pairs in converter.list_images().items() if pairs}
    if not splits:
        raise DataError(f"{root.absolute()} is in {kind.name}'s format, but no images are found: correct its folders.")
    return converter, splits


def _write_split(
    converter: Converter,
    split: str,
    pairs: list[tuple[Path, Path]],
    target: Path,
    classes: list[str],
    left_out: dict[str, str],
) -> tuple[dict, Counter[str]]:
    """Link the images of a split.

    Args:
        pairs: Its images with their labels.
        classes: All names; those that only labels have are added.
        left_out: Images that cannot be used are added, each with the reason.

    Returns:
        COCO's content, still without categories, and how often what has to be reported occurs.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    counts: Counter[str] = Counter()
    names = _names([image for image, _ in pairs], converter.root, split)
    for number, ((image, file), name) in enumerate(zip(pairs, names, strict=True), start=1):
        try:
            header = read_header(image, sys.maxsize)  # only its size is needed
            if header is None:
                raise BrokenImageError("is in no format that is known, or too large for Pillow")
        except BrokenImageError as error:
            left_out[str(image)] = f"the image {image} {error}"
            print_log(printable(f"The image {image} {error}; it is left out."), "current", logging.WARNING)
            continue
        width, height = header.upright  # as YOLO's own loader has it
        _link(image, target / name, converter.root / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        counts[_UNLABELLED] += not file.is_file()
        for label in _labels(converter, file, (width, height)):
            if label.name not in classes:
                classes.append(label.name)
            counts[_KEYPOINTS] += label.keypoints_left_out
            left, top, right, bottom = label.box
            w, h = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(label.name) + 1,
                    "bbox": [left, top, w, h],
                    "area": sum(map(_area, label.polygons)) if label.polygons else w * h,
                    "iscrowd": 0,
                    "segmentation": list(label.polygons),
                }
            )
    return {"images": images, "annotations": annotations}, counts


def _labels(converter: Converter, file: Path, size: tuple[int, int]) -> list[Label]:
    """Return all objects of one file; none where it is not there.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return list(converter.read_labels(file, size)) if file.is_file() else []
    except UserError:
        raise
    except Exception as error:  # whatever the readers raise of a broken file
        raise DataError(
            f"The labels {file} cannot be read ({' '.join(str(error).split())[:200]}): correct them."
        ) from error


def _names(images: list[Path], root: Path, split: str) -> list[str]:
    """Return paths in the target: those below the root; of others SPLIT/ and the path below their common parent."""
    paths = [os.path.relpath(image, root) for image in images]
    outside = [os.path.abspath(image.parent) for image, path in zip(images, paths, strict=True) if _leads_out(path)]
    parent = os.path.commonpath(outside) if outside else ""
    return [
        (Path(split, os.path.relpath(image, parent)) if _leads_out(path) else Path(path)).as_posix()
        for image, path in zip(images, paths, strict=True)
    ]


def _leads_out(path: str) -> bool:
    return Path(path).parts[0] == os.pardir


def _link(image: Path, place: Path, rival: Path) -> None:
    """Put an image into the target, without taking space where the disk allows it.

    Args:
        rival: What else of the source would be there.

    Raises:
        DataError: Another image is there already.
    """
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(image), place)
        except OSError:  # another disk, or one without links
            shutil.copyfile(image, place)
    elif not os.path.samefile(place, image) and not filecmp.cmp(place, image, shallow=False):
        raise DataError(f"The images {image} and {rival} would get the same name in the target: rename one.")


def _area(polygon: list[float]) -> float:
    x, y = polygon[::2], polygon[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
