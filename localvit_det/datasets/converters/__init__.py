"""Datasets in formats of others, converted to COCO's; `supervision` reads labels of YOLO and VOC (the extra `convert`).

supervision's own datasets are not used: they draw polygons into masks, decode every image, sort the classes, know no
splits, and stop at the first broken image.
"""

import filecmp
import hashlib
import inspect
import json
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log
from pycocotools import mask as coco_masks

from ...errors import DataError, OutputError, printable, shortened
from ...files import atomic_folder, cache_folder, locked, write_text
from ..annotations import COPY_OF, write_annotations
from ..images import BrokenImageError, read_header
from ..layouts import IMAGE_SUFFIXES, WHOLE, walk_folders
from .annotation_tools import Cvat, Labelme, Via
from .base import WITHOUT_SPLIT, Converter, Label, broken_labels
from .voc import Voc
from .yolo import Yolo

__all__ = [
    "CONVERTERS",
    "Converted",
    "Converter",
    "Label",
    "convert_dataset",
    "convert_in_cache",
    "converted_before",
    "find_converter",
]

CONVERTERS: list[type[Converter]] = [Yolo, Cvat, Voc, Labelme, Via]  # the first one that recognizes a folder takes it
_UNLABELLED, _KEYPOINTS = "unlabelled", "keypoints"  # what is counted
_VERSION = 1  # raise it with every change of what converted files are like


class Converted(NamedTuple):
    """A dataset of another format, as files in COCO's in the cache; images stay where they are."""

    name: str  # of the format
    files: dict[str, str]  # for each split its annotation file, whose images have names below the root
    notes: list[str]  # what is left out, and how unlabelled images are taken; a sentence each


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
    lines = [f"{converter.name}, {len(splits)} splits: {target}"]
    try:
        with atomic_folder(target) as draft:
            for split, (content, parts) in _contents(converter, splits, left_out, draft).items():
                write_text(draft / f"annotations/instances_{split}.json", json.dumps(content))
                count = f"{len(content['images'])} images", f"{len(content['annotations'])} objects"
                lines.append(f"{split}: {', '.join([*count, *parts])}")
    except OSError as error:
        raise OutputError(f"{target.absolute()} cannot be written ({error.strerror}): name another folder.") from error
    return "\n".join([*lines, *converter.notes])


def convert_in_cache(root: Path, without: Collection[str] = ()) -> Converted | None:
    """Return a dataset in a format of others as files in COCO's, which stay as long as nothing in it changes.

    Args:
        without: Files in COCO's format that lie there, too, and are taken by themselves.

    Returns:
        The files; None where the folder is in no known format.

    Raises:
        DataError: A label cannot be read, or none of the images can be used.
        OutputError: The cache cannot be written.
        RequirementError: What reads the format is not installed.
    """
    if find_converter(root) is None:
        return None
    index = _index(root, without)
    with locked(index.with_suffix(".lock")):
        return converted_before(root, without) or _converted(root, index)


def converted_before(root: Path, without: Collection[str] = ()) -> Converted | None:
    """Return what `convert_in_cache` has made of a folder, by a listing; None where something has changed.

    A folder of which nothing was made is not even listed.
    """
    try:
        known = json.loads(_index(root, without).read_bytes())
        state, places, *parts = (known[key] for key in ("state", "places", *Converted._fields))
    except (OSError, ValueError, KeyError, TypeError):  # none, or of a broken disk
        return None
    converted = Converted(*parts)
    there = all(map(os.path.isfile, converted.files.values()))
    return converted if there and state == _digest(_states([root, *places])) else None


def _converted(root: Path, index: Path) -> Converted:
    """Convert a folder, and keep in the index by what `converted_before` knows it."""
    states = _states([root])  # before anything is read, so that what changes meanwhile is read again
    converter, splits = _listed(root)
    files = (file for pairs in splits.values() for pair in pairs for file in pair)
    places = dict.fromkeys(os.path.abspath(place) for place in (*converter.places, *files))
    elsewhere = [place for place in places if place not in states]
    state = _digest(states | _states(elsewhere))
    folder = index.parent / state
    written = {split: str(folder / f"instances_{split}.json") for split in splits}
    left_out: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, (content, parts) in _contents(converter, splits, left_out).items():
            converter.notes += [f"{split}: {part}" for part in parts]
            content[COPY_OF] = str(converter.named or root)
            write_annotations(Path(written[split]), content)
        if left_out:
            names = shortened([os.path.relpath(name, root) for name in left_out])
            converter.notes.append(f"{len(left_out)} images that cannot be used, left out ({names})")
        by_split = {WHOLE if split == WITHOUT_SPLIT else split: file for split, file in written.items()}
        converted = Converted(converter.name, by_split, converter.notes)
        # Written last, so that all files are whole.
        write_text(index, json.dumps({"state": state, "places": elsewhere, **converted._asdict()}))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): name another cache.") from error
    return converted


def _index(root: Path, without: Collection[str]) -> Path:
    """Return where it is kept of a folder what was made of it."""
    return cache_folder() / "sets" / f"{_digest([os.path.abspath(root), sorted(without)])}.json"


def _digest(known_by: object) -> str:
    parts = [_VERSION, *map(_own_code, CONVERTERS), known_by]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _own_code(converter: type[Converter]) -> str | None:
    """Return the code of a converter from outside, whose author counts no versions; None for one of this package."""
    if converter.__module__.startswith(f"{__name__}."):
        return None
    try:
        return inspect.getsource(converter)
    except (OSError, TypeError):  # typed into an interpreter
        return converter.name


def _states(places: Iterable[str | os.PathLike]) -> dict[str, list[int] | None]:
    """Return what changes with the files at some places, and with those below them that converters read, by path."""
    endings = tuple({*IMAGE_SUFFIXES, *(suffix for converter in CONVERTERS for suffix in converter.suffixes)})
    states: dict[str, list[int] | None] = {}
    for place in map(os.path.abspath, places):
        files = [place]
        if os.path.isdir(place):
            below = (os.path.join(folder, name) for folder, names in walk_folders(place) for name in names)
            files = [file for file in below if file.lower().endswith(endings)]
        states |= {file: _state(file) for file in files if file not in states}
    return states


def _state(file: str) -> list[int] | None:
    try:
        there = os.stat(file)
    except (OSError, ValueError):  # none, or of no name that a file may have
        return None
    return [there.st_mtime_ns, there.st_size]


def _contents(
    converter: Converter,
    splits: dict[str, list[tuple[Path, Path]]],
    left_out: dict[str, str],
    target: Path | None = None,
) -> dict[str, tuple[dict, list[str]]]:
    """Return COCO's content of each split, and what has to be said of it.

    Args:
        left_out: Gets the images that cannot be used, each with the reason.
        target: Where images are linked to; by default they are named where they are.
    """
    classes = list(converter.classes)
    contents = {
        split: _read_split(converter, split, pairs, target, classes, left_out) for split, pairs in splits.items()
    }
    if left_out and not any(content["images"] for content, _ in contents.values()):
        raise DataError(f"Nothing is left: {next(iter(left_out.values()))}; correct or remove it.")
    if converter.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in converter.left_out.items())
        converter.notes.append(f"Shapes that enclose nothing, left out: {converter.left_out.total()} ({kinds})")
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    said: dict[str, tuple[dict, list[str]]] = {}
    for split, (content, counts) in contents.items():
        parts = []
        if counts[_UNLABELLED]:
            parts.append(f"{counts[_UNLABELLED]} without a file of labels, taken as images without objects")
        if counts[_KEYPOINTS]:
            parts.append(f"keypoints of {counts[_KEYPOINTS]} objects are left out")
        said[split] = {**content, "categories": categories}, parts
    return said


def _listed(source: Path) -> tuple[Converter, dict[str, list[tuple[Path, Path]]]]:
    """Return the converter of a folder or of a file in it, and its images with their labels, without empty splits.

    Raises:
        DataError: It is in no known format, lacks its classes or images, or it is unclear whose a label is.
    """
    root, named = (source.parent, source) if source.is_file() else (source, None)
    kind = find_converter(root)
    if kind is None:
        signs = "; ".join(f"{one.name} has {one.signs}" for one in CONVERTERS)
        raise DataError(f"{root.absolute()} is in no format that can be converted: {signs}.")
    converter = kind(root)
    converter.named = named
    splits = {split: pairs for split, pairs in converter.list_images().items() if pairs}
    if not splits:
        raise DataError(f"{root.absolute()} is in {kind.name}'s format, but no images are found: correct its folders.")
    return converter, splits


def _read_split(
    converter: Converter,
    split: str,
    pairs: list[tuple[Path, Path]],
    target: Path | None,
    classes: list[str],
    left_out: dict[str, str],
) -> tuple[dict, Counter[str]]:
    """Read the labels of a split, and link its images.

    Args:
        pairs: Its images with their labels.
        target: Where to; None for nowhere.
        classes: All names; those that only labels have are added.
        left_out: Images that cannot be used are added, each with the reason.

    Returns:
        COCO's content, still without categories, and how often what has to be reported occurs.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    counts: Counter[str] = Counter()
    listed = [image for image, _ in pairs]
    names = _names(listed, converter.root, split) if target else [_relative(one, converter.root) for one in listed]
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
        if target:
            _link(image, target / name, converter.root / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        counts[_UNLABELLED] += not file.is_file()
        with broken_labels(file):
            labels = list(converter.read_labels(file, (width, height), image)) if file.is_file() else []
        for label in labels:
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
                    "area": _area_of(label),
                    "iscrowd": 0,
                    "segmentation": label.rle or list(label.polygons),
                }
            )
    return {"images": images, "annotations": annotations}, counts


def _names(images: list[Path], root: Path, split: str) -> list[str]:
    """Return paths in the target: those below the root; of others SPLIT/ and the path below their common parent."""
    paths = [os.path.relpath(image, root) for image in images]
    outside = [os.path.abspath(image.parent) for image, path in zip(images, paths, strict=True) if _leads_out(path)]
    parent = os.path.commonpath(outside) if outside else ""
    return [
        (Path(split, os.path.relpath(image, parent)) if _leads_out(path) else Path(path)).as_posix()
        for image, path in zip(images, paths, strict=True)
    ]


def _relative(image: Path, root: Path) -> str:
    return Path(os.path.relpath(image, root)).as_posix()


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


def _area_of(label: Label) -> float:
    if label.rle:
        return float(coco_masks.area(label.rle))
    left, top, right, bottom = label.box
    return sum(map(_area, label.polygons)) if label.polygons else (right - left) * (bottom - top)


def _area(polygon: list[float]) -> float:
    x, y = polygon[::2], polygon[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
