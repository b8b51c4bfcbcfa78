"""Data sets in YOLO's and Pascal VOC's formats: which images belong to which split, and where their labels are."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import DataError
from .layouts import IMAGE_SUFFIXES, TEST, TRAIN, VAL, split_of

YOLO, VOC = "YOLO", "Pascal VOC"
WITHOUT_SPLIT = "default"
_SHARES = {TRAIN: (TRAIN,), VAL: (VAL, "valid"), TEST: (TEST,)}  # keys of data.yaml


@dataclass
class ForeignSet:
    """What a folder in another format holds.

    Attributes:
        images: For each split the images, each with the file of its labels, which need not exist.
        names: Class names by number; in Pascal VOC each label says its own.
        keypoints: Numbers behind the box of each YOLO label.
    """

    kind: str
    root: Path
    images: dict[str, list[tuple[Path, Path]]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    keypoints: int = 0


def foreign_set(root: Path) -> str | None:
    """The name of the format that a folder is in, None where it is none of these."""
    if _data_yaml(root) is not None or _folders_with(root, ".txt", beside="labels"):
        return YOLO
    return VOC if any(_is_voc(folder) for folder in _folders_with(root, ".xml")) else None


def read_foreign_set(root: Path) -> ForeignSet:
    """Lists the images of a folder.

    Raises:
        DataError: It is in neither format, or lacks its classes or images.
    """
    kind = foreign_set(root)
    if kind is None:
        raise DataError(
            f"{root.absolute()} is in no format that can be converted: YOLO has data.yaml, or images/ and labels/; "
            "Pascal VOC an .xml file for each image."
        )
    found = _yolo(root) if kind == YOLO else _voc(root)
    found.images = {split: pairs for split, pairs in found.images.items() if pairs}
    if not found.images:
        raise DataError(f"{root.absolute()} is in {kind}'s format, but no images are found: correct its folders.")
    return found


# ---------------------------------------------------------------------------------------------- YOLO


def _data_yaml(root: Path) -> Path | None:
    named = root / "data.yaml"
    files = [named] if named.is_file() else sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    return next((file for file in files if {"names", *_SHARES} & _yaml(file).keys() > {"names"}), None)


def _yaml(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _yolo(root: Path) -> ForeignSet:
    file = _data_yaml(root)
    content = _yaml(file) if file else {}
    found = ForeignSet(YOLO, root, names=_class_names(root, content))
    shape = content.get("kpt_shape")
    if isinstance(shape, (list, tuple)) and all(isinstance(number, int) for number in shape):
        found.keypoints = shape[0] * shape[-1]
    if file is not None:
        for split, keys in _SHARES.items():
            value = next((content[key] for key in keys if content.get(key)), None)
            places = [value] if isinstance(value, str) else value or []
            images = [image for place in places for image in _images_at(_placed(root, content.get("path"), place))]
            found.images[split] = [(image, _label_of(image)) for image in dict.fromkeys(images)]
        return found
    for folder in _folders_with(root, *IMAGE_SUFFIXES):
        split = split_of(folder.relative_to(root).as_posix()) or WITHOUT_SPLIT
        found.images.setdefault(split, []).extend((image, _label_of(image)) for image in _images_in(folder))
    return found


def _class_names(root: Path, content: dict) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbers = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError):
            raise DataError(f"names in data.yaml of {root} has other keys than numbers: correct it.") from None
        return [numbers.get(index, f"class {index}") for index in range(max(numbers, default=-1) + 1)]
    if isinstance(names, list):
        return list(map(str, names))
    for file in (root / "classes.txt", root / "labels/classes.txt", root / "obj.names"):
        if file.is_file():
            return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
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
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    raise DataError(f"data.yaml of {root.absolute()} names {place}, which is not there: correct it.")


def _images_at(place: Path) -> list[Path]:
    """The images of a folder, or those that a text file lists."""
    if place.is_dir():
        return [image for folder in _folders_with(place, *IMAGE_SUFFIXES) for image in _images_in(folder)]
    lines = place.read_text(encoding="utf-8").splitlines()
    return [Path(os.path.normpath(place.parent / line.strip())) for line in lines if line.strip()]


def _label_of(image: Path) -> Path:
    """YOLO's rule: the last folder called images becomes labels; else the label lies beside the image."""
    parts = list(image.parent.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"


# ---------------------------------------------------------------------------------------------- Pascal VOC


def _is_voc(folder: Path) -> bool:
    """Whether the first XML file of a folder is such a label."""
    first = next(file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".xml")
    with open(first, "rb") as stream:
        return b"<annotation" in stream.read(2000)


def _voc(root: Path) -> ForeignSet:
    found = ForeignSet(VOC, root)
    labels = {file.stem: file for folder in _folders_with(root, ".xml") for file in _files(folder, (".xml",))}
    lists = {split: root / f"ImageSets/Main/{split}.txt" for split in (TRAIN, VAL, TEST)}
    listed = {split: file.read_text().split() for split, file in lists.items() if file.is_file()}
    for folder in _folders_with(root, *IMAGE_SUFFIXES):
        beside = {file.stem: file for file in _files(folder, (".xml",))}
        for image in _images_in(folder):
            if listed:
                splits = [split for split, stems in listed.items() if image.stem in set(stems)]
            else:
                splits = [split_of(folder.relative_to(root).as_posix()) or WITHOUT_SPLIT]
            label = beside.get(image.stem) or labels.get(image.stem) or image.with_suffix(".xml")
            for split in splits:
                found.images.setdefault(split, []).append((image, label))
    return found


# ---------------------------------------------------------------------------------------------- folders


def _folders_with(root: Path, *suffixes: str, beside: str | None = None) -> list[Path]:
    """Folders below a root that hold such files, hidden ones left out.

    Args:
        beside: Only where a folder of that name is among their parents.
    """
    result = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if beside is not None and beside not in Path(folder).relative_to(root).parts:
            continue
        if any(name.lower().endswith(suffixes) for name in files):
            result.append(Path(folder))
    return result


def _files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)


def _images_in(folder: Path) -> list[Path]:
    return _files(folder, IMAGE_SUFFIXES)
