"""Data sets in YOLO's format: which images belong to which split, and where their labels are."""

import os
from collections import Counter
from pathlib import Path

import yaml

from ..errors import DataError
from .foreign_files import YOLO, ForeignSet, by_folder, files_in, folders_with, images_in, note_labels, read_text
from .layouts import IMAGE_SUFFIXES, TEST, TRAIN, VAL

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_YAML, _MAX_DEPTH, _MAX_CLASSES = 1 << 20, 20, 100_000
_SHARES = {TRAIN: (TRAIN,), VAL: (VAL, "valid"), TEST: (TEST,)}  # keys of data.yaml


def data_yaml(root: Path) -> Path | None:
    """The file that names the classes and the folders of a set, None where there is none."""
    named = root / "data.yaml"
    files = [named] if named.is_file() else files_in(root, (".yaml", ".yml"))
    return next((file for file in files if {"names", *_SHARES} & _yaml(file, file == named).keys() > {"names"}), None)


def _yaml(file: Path, meant: bool = True) -> dict:
    """Return what a file holds; nothing where it is no YAML, and nobody has said that it is meant.

    Raises:
        DataError: It is meant, and cannot be read.
    """
    try:
        text = read_text(file, _MAX_YAML)
        _check_events(text)
        content = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, OSError, ValueError, RecursionError, DataError) as error:
        if not meant:
            return {}
        raise DataError(
            f"{file.absolute()} cannot be read as YAML ({' '.join(str(error).split())[:200]}): correct it."
        ) from error
    return content if isinstance(content, dict) else {}


def _check_events(text: str) -> None:
    """Check what a text would build: aliases may repeat a part without end, and parsers fail at depth.

    Raises:
        DataError: It has aliases, or is nested deep.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise DataError(f"line {event.start_mark.line + 1} has an alias (*{event.anchor}), write its value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise DataError(f"line {event.start_mark.line + 1} is nested more than {_MAX_DEPTH} deep")


def read_yolo(root: Path) -> ForeignSet:
    """Lists the images of a set.

    Raises:
        DataError: Its classes or images are not where it says.
    """
    file = data_yaml(root)
    content = _yaml(file) if file else {}
    names = _class_names(root, content)
    if len(set(names)) < len(names):
        ((name, count),) = Counter(names).most_common(1)
        raise DataError(f"{root.absolute()} has {count} classes of the name {name!r:.80}: give each its own.")
    found = ForeignSet(YOLO, root, names=names, keypoints=_keypoints(root, content))
    if file is not None:
        for split, keys in _SHARES.items():
            value = next((content[key] for key in keys if content.get(key)), None)
            places = [value] if isinstance(value, str) else value or []
            if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
                raise DataError(f"data.yaml of {root.absolute()} has no folder for {split}: write a path, or a list.")
            images = [image for place in places for image in _images_at(_placed(root, content.get("path"), place))]
            if places and not images:
                raise DataError(
                    f"data.yaml of {root.absolute()} names {', '.join(map(str, places))} for {split}, where no images "
                    f"are: correct it, or leave {split} out."
                )
            found.images[split] = [(image, _label_of(image)) for image in dict.fromkeys(images)]
    else:
        images = [image for folder in folders_with(root, *IMAGE_SUFFIXES) for image in images_in(folder)]
        for split, members in by_folder(root, images).items():
            found.images[split] = [(image, _label_of(image)) for image in members]
    note_labels(found, _labels_left(found))
    return found


def _labels_left(found: ForeignSet) -> list[Path]:
    """Files of labels without an image, also of images that data.yaml does not name."""
    named = [label for pairs in found.images.values() for _, label in pairs]
    images = [image for folder in folders_with(found.root, *IMAGE_SUFFIXES) for image in images_in(folder)]
    claimed = {os.path.abspath(label) for label in [*named, *map(_label_of, images)]}
    folders = {Path(os.path.abspath(folder)) for folder in folders_with(found.root, ".txt", beside="labels")}
    folders |= {Path(os.path.abspath(label.parent)) for label in named}
    files = [file for folder in sorted(folders) if folder.is_dir() for file in files_in(folder, (".txt",))]
    return [file for file in files if str(file) not in claimed and _has_boxes(file)]


def _has_boxes(file: Path) -> bool:
    """Whether a text file is one of labels, not of class names or of images."""
    words = read_text(file, errors="replace").lstrip().partition("\n")[0].split()
    try:
        return len([float(word) for word in words]) >= 5
    except ValueError:
        return False


def _keypoints(root: Path, content: dict) -> int:
    """Numbers behind the box of a label, by kpt_shape: that of the points, times two or three for each."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(count), 2 | 3 as each] if count > 0:
            return count * each
    raise DataError(
        f"kpt_shape in data.yaml of {root.absolute()} is {shape!r}: write [NUMBER, 2] or [NUMBER, 3], or leave it out."
    )


def _class_names(root: Path, content: dict) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbers = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError):
            raise DataError(f"names in data.yaml of {root} has other keys than numbers: correct it.") from None
        if numbers and not 0 <= min(numbers) <= max(numbers) < _MAX_CLASSES:
            raise DataError(f"names in data.yaml of {root} has numbers that are not from 0 to {_MAX_CLASSES - 1:,}.")
        return [numbers.get(index, f"class {index}") for index in range(max(numbers, default=-1) + 1)]
    if isinstance(names, list):
        return list(map(str, names))
    for file in (root / "classes.txt", root / "labels/classes.txt", root / "obj.names"):
        if file.is_file():
            return [line.strip() for line in read_text(file).splitlines() if line.strip()]
    raise DataError(
        f"{root.absolute()} does not name its classes: write classes.txt into it, one name a line, or names into "
        "data.yaml."
    )


def _placed(root: Path, base: object, place: str) -> Path:
    """Where a folder of data.yaml is: its `path` is often one of the machine that wrote it, and `../` one too many."""
    bases = [Path(base), root / base] if isinstance(base, str) else []
    stripped = place.replace("\\", "/")
    while stripped.startswith(("../", "./")):
        stripped = stripped.partition("/")[2]
    candidates = [*(Path(base) / place for base in bases), root / place, root / stripped]
    for candidate in candidates:
        if os.path.exists(candidate):  # unlike Path.exists, also of names that are too long
            return Path(os.path.normpath(candidate))
    raise DataError(f"data.yaml of {root.absolute()} names {place}, which is not there: correct it.")


def _images_at(place: Path) -> list[Path]:
    """The images of a folder, or those that a text file lists."""
    if place.is_dir():
        return [image for folder in folders_with(place, *IMAGE_SUFFIXES) for image in images_in(folder)]
    lines = read_text(place, 1 << 30).splitlines()
    return [Path(os.path.normpath(place.parent / line.strip())) for line in lines if line.strip()]


def _label_of(image: Path) -> Path:
    """YOLO's rule: the last folder called images becomes labels; else the label lies beside the image."""
    parts = list(image.parent.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"
