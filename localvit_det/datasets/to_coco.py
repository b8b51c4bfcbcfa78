"""Writes sets of YOLO's and Pascal VOC's format in COCO's; `supervision` reads their labels (extra `convert`)."""

import importlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..errors import DataError, OutputError, RequirementError
from .foreign import VOC, ForeignSet, read_foreign_set
from .images import BrokenImageError, read_header

Label = tuple[str, tuple[float, float, float, float], list[list[float]]]  # class, x1 y1 x2 y2, polygons; in pixels
_POLYGON = 6  # numbers of the smallest one; a box has four, and maybe a confidence


def convert_set(source: str | os.PathLike, target: str | os.PathLike) -> str:
    """Writes `annotations/instances_SPLIT.json` for each split, and links (or else copies) the images beside it.

    Boxes are those of the source, in pixels; polygons stay polygons.

    Returns:
        What was written, a line for each split.

    Raises:
        DataError: The source is in no known format, or a label in it cannot be read.
        OutputError: The target is there already, or cannot be written.
        RequirementError: supervision is not installed.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target.absolute()} is there already: name a folder that is not.")
    found = read_foreign_set(source)
    draft = target.absolute().parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        (draft / "annotations").mkdir(parents=True)
        lines = [f"{found.kind}, {len(found.images)} splits: {target}"]
        names = list(found.names)
        contents = {split: _split(found, split, draft, names) for split in found.images}
        for split, (content, without) in contents.items():
            content["categories"] = [{"id": index, "name": name} for index, name in enumerate(names, start=1)]
            file = draft / f"annotations/instances_{split}.json"
            file.write_text(json.dumps(content), encoding="utf-8")
            unlabelled = f", {without} without a file of labels, taken as images without objects" if without else ""
            lines.append(f"{split}: {len(content['images'])} images, {len(content['annotations'])} objects{unlabelled}")
        draft.rename(target)
    except OSError as error:
        raise OutputError(f"{target.absolute()} cannot be written ({error.strerror}): name another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return "\n".join(lines)


def _split(found: ForeignSet, split: str, target: Path, names: list[str]) -> tuple[dict, int]:
    """COCO's content for a split, still without categories, and how many images have no file of labels.

    Args:
        names: All classes; those that only labels name are added.
    """
    images, annotations, without = [], [], 0
    for number, (image, label) in enumerate(found.images[split], start=1):
        try:
            header = read_header(image, sys.maxsize)  # only its size is needed
        except BrokenImageError as error:
            raise DataError(f"The image {image} {error}: mend or remove it.") from error
        if header is None:
            raise DataError(
                f"The image {image} is in no format that is known, or too large for Pillow: convert or remove it."
            )
        width, height = header.upright  # as YOLO's own loader has it
        name = _link(found, split, image, target)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        without += not label.is_file()
        for class_name, (left, top, right, bottom), polygons in _labels(found, label, (width, height)):
            if class_name not in names:
                names.append(class_name)
            w, h = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(class_name) + 1,
                    "bbox": [left, top, w, h],
                    "area": sum(map(_area, polygons)) if polygons else w * h,
                    "iscrowd": 0,
                    "segmentation": polygons,
                }
            )
    return {"images": images, "annotations": annotations}, without


def _link(found: ForeignSet, split: str, image: Path, target: Path) -> str:
    """Puts an image into the target, without taking room where the disk allows it; returns its name there."""
    name = os.path.relpath(image, found.root)
    if name.startswith(".."):
        name = f"{split}/{image.name}"
    place = target / name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(image), place)
        except OSError:  # another disk, or one without links
            shutil.copyfile(image, place)
    elif not os.path.samefile(place, image) and place.stat().st_size != image.stat().st_size:
        raise DataError(f"Two images of {split} are called {image.name}: rename one.")
    return Path(name).as_posix()


def _labels(found: ForeignSet, label: Path, size: tuple[int, int]) -> Iterator[Label]:
    """All objects of one file; none where it is not there.

    Raises:
        DataError: It cannot be read.
    """
    if not label.is_file():
        return
    try:
        yield from _voc_labels(label, size) if found.kind == VOC else _yolo_labels(found, label, size)
    except (ValueError, IndexError, SyntaxError) as error:  # XML's errors are of the last kind
        raise DataError(f"The labels {label} cannot be read ({' '.join(str(error).split())}): mend them.") from error


def _yolo_labels(found: ForeignSet, label: Path, size: tuple[int, int]) -> Iterator[Label]:
    lines = [line for line in label.read_text(encoding="utf-8").splitlines() if line.strip()]
    if found.keypoints:
        lines = [" ".join(line.split()[:5]) for line in lines]
    # Without masks, into which it would draw the polygons: they are kept below, corner by corner.
    boxes = _supervision("yolo").yolo_annotations_to_detections(lines, size, with_masks=False)
    for line, box, number in zip(lines, boxes.xyxy.tolist(), boxes.class_id.tolist(), strict=True):
        if not 0 <= number < len(found.names):
            raise ValueError(f"class {number}, where there are {len(found.names)} names")
        corners = line.split()[1:]
        polygon = [float(word) * size[index % 2] for index, word in enumerate(corners[: len(corners) // 2 * 2])]
        yield found.names[number], tuple(box), [polygon] if len(corners) >= _POLYGON else []


def _voc_labels(label: Path, size: tuple[int, int]) -> Iterator[Label]:
    """Pascal VOC counts pixels from 1, and the last one is inside of a box."""
    reader = _supervision("pascal_voc")
    from defusedxml.ElementTree import parse  # which supervision reads them with

    root = parse(label).getroot()
    objects = root.findall("object")
    polygons = []
    for item in objects:
        drawn = item.findall("polygon")
        polygons.append([[float(point.text) - 1 for point in polygon] for polygon in drawn])
        for polygon in drawn:
            item.remove(polygon)  # it would be made a mask, and lose its corners
    found, names = reader.detections_from_xml_obj(root, [], size)
    for box, number, parts in zip(found.xyxy.tolist(), found.class_id.tolist(), polygons, strict=True):
        yield names[number], tuple(box), parts


def _area(polygon: list[float]) -> float:
    x, y = polygon[::2], polygon[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2


def _supervision(part: str) -> ModuleType:
    try:
        return importlib.import_module(f"supervision.dataset.formats.{part}")
    except ImportError as error:
        raise RequirementError(
            f"Converting a data set needs supervision, which cannot be imported ({error}): pip install "
            "'localvit_det[convert]'."
        ) from error
