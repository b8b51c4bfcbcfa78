"""Writes sets of YOLO's and Pascal VOC's format in COCO's; `supervision` reads their labels (extra `convert`)."""

import filecmp
import importlib
import json
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from mmengine.logging import print_log

from ..errors import DataError, OutputError, RequirementError, UserError, printable
from ..files import atomic_folder, write_text
from .foreign import read_foreign_set
from .foreign_files import VOC, ForeignSet, check_file, read_text
from .images import BrokenImageError, read_header

Label = tuple[str, tuple[float, float, float, float], list[list[float]]]  # class, x1 y1 x2 y2, polygons; in pixels
_POLYGON = 6  # numbers of the smallest one; a box has four, and maybe a confidence
_OUTSIDE = 0.01  # how far a YOLO coordinate may reach out of the image: tools round, and clip late
_UNLABELLED, _CUT, _POLYGONS, _LIKE_KEYPOINTS = "unlabelled", "cut", "polygons", "like keypoints"  # what is counted


def convert_set(source: str | os.PathLike, target: str | os.PathLike, left_out: dict[str, str] | None = None) -> str:
    """Writes `annotations/instances_SPLIT.json` for each split, and links (or else copies) the images beside it.

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
    found = read_foreign_set(source)
    lines, names = [f"{found.kind}, {len(found.images)} splits: {target}"], list(found.names)
    doubts: Counter[str] = Counter()
    try:
        with atomic_folder(target) as draft:
            contents = {split: _split(found, split, draft, names, left_out) for split in found.images}
            if left_out and not any(content["images"] for content, _ in contents.values()):
                raise DataError(f"Nothing is left: {next(iter(left_out.values()))}; correct or remove it.")
            categories = [{"id": index, "name": name} for index, name in enumerate(names, start=1)]
            for split, (content, counts) in contents.items():
                file = draft / f"annotations/instances_{split}.json"
                write_text(file, json.dumps({**content, "categories": categories}))
                parts = [f"{len(content['images'])} images", f"{len(content['annotations'])} objects"]
                if counts[_UNLABELLED]:
                    parts.append(f"{counts[_UNLABELLED]} without a file of labels, taken as images without objects")
                if counts[_CUT]:
                    parts.append(f"keypoints of {counts[_CUT]} objects are left out")
                lines.append(f"{split}: {', '.join(parts)}")
                doubts += counts
    except OSError as error:
        raise OutputError(f"{target.absolute()} cannot be written ({error.strerror}): name another folder.") from error
    return "\n".join([*lines, *found.notes, *_doubts(doubts)])


def _doubts(counts: Counter) -> list[str]:
    """What may have been read as something else than it is."""
    if 2 * counts[_LIKE_KEYPOINTS] <= counts[_POLYGONS]:
        return []
    return [
        f"{counts[_LIKE_KEYPOINTS]} of {counts[_POLYGONS]} polygons look like a box and keypoints in it: if they are, "
        "write kpt_shape: [NUMBER, 2 or 3] into data.yaml, and convert again."
    ]


def _split(
    found: ForeignSet, split: str, target: Path, names: list[str], left_out: dict[str, str]
) -> tuple[dict, Counter]:
    """COCO's content for a split, still without categories, and how often what has to be told occurs.

    Args:
        names: All classes; those that only labels name are added.
        left_out: Images that cannot be used are added, each with the reason.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    counts: Counter[str] = Counter()
    files = _names([image for image, _ in found.images[split]], found.root, split)
    for number, ((image, label), name) in enumerate(zip(found.images[split], files, strict=True), start=1):
        try:
            header = read_header(image, sys.maxsize)  # only its size is needed
            if header is None:
                raise BrokenImageError("is in no format that is known, or too large for Pillow")
        except BrokenImageError as error:
            left_out[str(image)] = f"the image {image} {error}"
            print_log(printable(f"The image {image} {error}; it is left out."), "current", logging.WARNING)
            continue
        width, height = header.upright  # as YOLO's own loader has it
        _link(image, target / name, found.root / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        counts[_UNLABELLED] += not label.is_file()
        for class_name, (left, top, right, bottom), polygons in _labels(found, label, (width, height), counts):
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
    return {"images": images, "annotations": annotations}, counts


def _names(images: list[Path], root: Path, split: str) -> list[str]:
    """Paths in the target: those below the root; of images outside SPLIT/ and those below the parent of all of them."""
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
    """Puts an image into the target, without taking room where the disk allows it.

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


def _labels(found: ForeignSet, label: Path, size: tuple[int, int], counts: Counter) -> Iterator[Label]:
    """All objects of one file; none where it is not there.

    Raises:
        DataError: It cannot be read.
    """
    if not label.is_file():
        return
    try:
        yield from _voc_labels(label, size) if found.kind == VOC else _yolo_labels(found, label, size, counts)
    except UserError:
        raise
    except Exception as error:  # whatever the readers raise of a broken file
        raise DataError(
            f"The labels {label} cannot be read ({' '.join(str(error).split())[:200]}): correct them."
        ) from error


def _yolo_labels(found: ForeignSet, label: Path, size: tuple[int, int], counts: Counter) -> Iterator[Label]:
    lines = []
    for number, line in enumerate(read_text(label).splitlines(), start=1):
        if words := line.split():
            shape = _without_keypoints(words, found.keypoints, number)
            if not re.fullmatch(r"-?\d{1,9}", shape[0]):
                raise ValueError(f"line {number} has {shape[0][:20]} for a class")
            _check_range(shape[1:], number)
            counts[_CUT] += len(shape) < len(words)
            counts[_POLYGONS] += len(shape) > _POLYGON
            counts[_LIKE_KEYPOINTS] += len(shape) > _POLYGON and _like_keypoints(list(map(float, shape[1:])))
            lines.append(" ".join(shape))
    # Without masks, into which it would draw the polygons: they are kept below, corner by corner.
    boxes = _supervision("yolo").yolo_annotations_to_detections(lines, size, with_masks=False)
    for line, box, number in zip(lines, boxes.xyxy.tolist(), boxes.class_id.tolist(), strict=True):
        if not 0 <= number < len(found.names):
            raise ValueError(f"class {number}, where there are {len(found.names)} names")
        corners = line.split()[1:]
        polygon = [float(word) * size[index % 2] for index, word in enumerate(corners[: len(corners) // 2 * 2])]
        yield found.names[number], tuple(box), [polygon] if len(corners) >= _POLYGON else []


def _without_keypoints(words: list[str], keypoints: int, number: int) -> list[str]:
    """The class and the box of a line with keypoints; other lines as they are, a confidence at their end included."""
    if not keypoints or len(words) <= _POLYGON:
        return words
    if len(words) not in (5 + keypoints, 6 + keypoints):
        raise ValueError(
            f"line {number} has {len(words)} numbers, where kpt_shape in data.yaml makes {5 + keypoints} of them"
        )
    return words[:5]


def _check_range(words: list[str], number: int) -> None:
    """Refuses coordinates that are no shares of the image: pixels, or what is no coordinate at all."""
    count = 4 if len(words) < _POLYGON else len(words) // 2 * 2  # a confidence or a number of a track may follow
    for word in words[:count]:
        if not -_OUTSIDE <= float(word) <= 1 + _OUTSIDE:
            hint = "; labels with keypoints need kpt_shape in data.yaml" if len(words) > _POLYGON else ""
            raise ValueError(f"line {number} has {word}, where coordinates go from 0 to 1{hint}")


def _like_keypoints(values: list[float]) -> bool:
    """Whether numbers that are read as a polygon may be a box and points in it, with or without their visibility."""
    (x, y, w, h), rest = values[:4], values[4:]
    for step in (2, 3):
        points = [rest[i : i + step] for i in range(0, len(rest), step)]
        if len(rest) % step == 0 and all(
            (px == py == 0 or (abs(px - x) <= w / 2 and abs(py - y) <= h / 2)) and (not seen or seen[0] in (0, 1, 2))
            for px, py, *seen in points
        ):
            return True
    return False


def _voc_labels(label: Path, size: tuple[int, int]) -> Iterator[Label]:
    """Pascal VOC counts pixels from 1, and the last one is inside of a box."""
    check_file(label)
    reader = _supervision("pascal_voc")
    from defusedxml.ElementTree import parse  # which supervision reads them with

    root = parse(label).getroot()
    objects = root.findall("object")
    polygons = []
    for item in objects:
        drawn = item.findall("polygon")
        polygons.append([[float(point.text) - 1 for point in polygon] for polygon in drawn])
        for part in polygons[-1]:
            if len(part) < _POLYGON or len(part) % 2:
                raise ValueError(f"a polygon has {len(part)} numbers")
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
