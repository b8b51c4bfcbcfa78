"""Data sets in YOLO's and Pascal VOC's formats: which images belong to which split, and where their labels are."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import DataError, shortened
from .layouts import IMAGE_SUFFIXES, TEST, TRAIN, VAL, split_of

YOLO, VOC = "YOLO", "Pascal VOC"
WITHOUT_SPLIT = "default"
_SHARES = {TRAIN: (TRAIN,), VAL: (VAL, "valid"), TEST: (TEST,)}  # keys of data.yaml
_LISTS = "ImageSets/Main"  # Pascal VOC's: the stems of each split
_CONTENTS = ("image", "images", "img", "imgs", "jpegimages", "data")  # names of folders
_CONTENTS += ("label", "labels", "annotation", "annotations", "xml", "xmls")
_DRAWN = ("SegmentationClass", "SegmentationObject")  # Pascal VOC's masks, which are images under the images' names


@dataclass
class ForeignSet:
    """What a folder in another format holds.

    Attributes:
        images: For each split the images, each with the file of its labels, which need not exist.
        names: Class names by number; in Pascal VOC each label says its own.
        keypoints: Numbers behind the box of each YOLO label.
        notes: What was left out, a sentence each.
    """

    kind: str
    root: Path
    images: dict[str, list[tuple[Path, Path]]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    keypoints: int = 0
    notes: list[str] = field(default_factory=list)


def foreign_set(root: Path) -> str | None:
    """The name of the format that a folder is in, None where it is none of these."""
    if _data_yaml(root) is not None or _folders_with(root, ".txt", beside="labels"):
        return YOLO
    return VOC if any(_is_voc(folder) for folder in _folders_with(root, ".xml")) else None


def read_foreign_set(root: Path) -> ForeignSet:
    """Lists the images of a folder.

    Raises:
        DataError: It is in neither format, lacks its classes or images, or does not tell whose a label is.
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
    found = ForeignSet(YOLO, root, names=_class_names(root, content), keypoints=_keypoints(root, content))
    if file is not None:
        for split, keys in _SHARES.items():
            value = next((content[key] for key in keys if content.get(key)), None)
            places = [value] if isinstance(value, str) else value or []
            images = [image for place in places for image in _images_at(_placed(root, content.get("path"), place))]
            if places and not images:
                raise DataError(
                    f"data.yaml of {root.absolute()} names {', '.join(map(str, places))} for {split}, where no images "
                    f"are: correct it, or leave {split} out."
                )
            found.images[split] = [(image, _label_of(image)) for image in dict.fromkeys(images)]
    else:
        images = [image for folder in _folders_with(root, *IMAGE_SUFFIXES) for image in _images_in(folder)]
        for split, members in _by_folder(root, images).items():
            found.images[split] = [(image, _label_of(image)) for image in members]
    _note_labels(found, _labels_left(found))
    return found


def _labels_left(found: ForeignSet) -> list[Path]:
    """Files of labels without an image, also of images that data.yaml does not name."""
    named = [label for pairs in found.images.values() for _, label in pairs]
    images = [image for folder in _folders_with(found.root, *IMAGE_SUFFIXES) for image in _images_in(folder)]
    claimed = {os.path.abspath(label) for label in [*named, *map(_label_of, images)]}
    folders = {Path(os.path.abspath(folder)) for folder in _folders_with(found.root, ".txt", beside="labels")}
    folders |= {Path(os.path.abspath(label.parent)) for label in named}
    files = [file for folder in sorted(folders) if folder.is_dir() for file in _files(folder, (".txt",))]
    return [file for file in files if str(file) not in claimed and _has_boxes(file)]


def _has_boxes(file: Path) -> bool:
    """Whether a text file is one of labels, not of class names or of images."""
    words = file.read_text(encoding="utf-8", errors="replace").lstrip().partition("\n")[0].split()
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
    return _is_label(next(file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".xml"))


def _is_label(file: Path) -> bool:
    with open(file, "rb") as stream:
        return b"<annotation" in stream.read(2000)


def _voc(root: Path) -> ForeignSet:
    found = ForeignSet(VOC, root)
    folders = [folder for folder in _folders_with(root, *IMAGE_SUFFIXES) if folder.name not in _DRAWN]
    images = [image for folder in folders for image in _images_in(folder)]
    labels = [file for folder in _folders_with(root, ".xml") for file in _files(folder, (".xml",))]
    label_of = _paired(root, images, labels)
    for split, members in (_listed(found, images) or _by_folder(root, images)).items():
        found.images[split] = [(image, label_of.get(image) or image.with_suffix(".xml")) for image in members]
    left = set(labels) - set(label_of.values())
    _note_labels(found, [label for label in labels if label in left and _is_label(label)])
    return found


def _by_folder(root: Path, images: list[Path]) -> dict[str, list[Path]]:
    return _grouped(images, lambda image: _split_at(root, image) or WITHOUT_SPLIT)


def _split_at(root: Path, file: Path) -> str | None:
    return split_of(file.parent.relative_to(root).as_posix())


def _listed(found: ForeignSet, images: list[Path]) -> dict[str, list[Path]]:
    """The images of each split by the lists of the set; nothing where it has none.

    Raises:
        DataError: A list holds no image, or does not tell which.
    """
    by_stem = _grouped(images, lambda image: image.stem)
    splits: dict[str, list[Path]] = {}
    for split in (TRAIN, VAL, TEST):
        file = found.root / f"{_LISTS}/{split}.txt"
        if not file.is_file():
            continue
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        # A list may have a flag behind the stem, and a stem may have spaces.
        stems = dict.fromkeys(line if line in by_stem else line.split()[0] for line in lines)
        absent = [stem for stem in stems if stem not in by_stem]
        if len(absent) == len(stems):
            named = f"{len(absent)} images, none of which is there ({shortened(absent)})" if absent else "no images"
            raise DataError(f"{file.absolute()} lists {named}: correct the list, or remove it.")
        if absent:
            found.notes.append(f"{split}: listed in {_LISTS}/{split}.txt, but not there: {_counted(absent)}")
        members = {_member(found.root, split, by_stem[stem]) for stem in stems if stem in by_stem}
        splits[split] = [image for image in images if image in members]
    listed = {image for members in splits.values() for image in members}
    if splits and len(listed) < len(images):
        rest = [image.relative_to(found.root).as_posix() for image in images if image not in listed]
        found.notes.append(f"Images in no list of {_LISTS}, left out: {_counted(rest)}")
    return splits


def _member(root: Path, split: str, images: list[Path]) -> Path:
    """Which of the images of one stem a split's list means: the only one, or the one in the split's folder."""
    own = images if len(images) == 1 else [image for image in images if _split_at(root, image) == split]
    if len(own) != 1:
        first, second, *_ = own or images
        raise DataError(
            f"{root.absolute()}/{_LISTS}/{split}.txt lists {first.stem}, and both {first} and {second} are called so: "
            "rename one, or lay it into a folder of its split."
        )
    return own[0]


def _paired(root: Path, images: list[Path], labels: list[Path]) -> dict[Path, Path]:
    """The label of each image that has one: by folder and stem, and what remains by its stem.

    Raises:
        DataError: Two fit equally well.
    """
    paired = _matched(root, images, labels, lambda file: (_place(root, file), file.stem), _of_other_splits)
    taken = set(paired.values())
    images, labels = [image for image in images if image not in paired], [one for one in labels if one not in taken]
    # Where folders fit each other, a label in another one is that of another image.
    apart = _of_other_folders if paired else _of_other_splits
    return paired | _matched(root, images, labels, lambda file: file.stem, apart)


def _matched(
    root: Path,
    images: list[Path],
    labels: list[Path],
    key: Callable[[Path], Hashable],
    apart: Callable[[Path, Path, Path], bool],
) -> dict[Path, Path]:
    """Labels of images that have the same key, without those that are known to be apart."""
    labels_of = _grouped(labels, key)
    result: dict[Path, Path] = {}
    for name, own in _grouped(images, key).items():
        pairs = [(image, label) for image in own for label in labels_of.get(name, ()) if not apart(root, image, label)]
        result.update(_nearest(root, pairs))
    return result


def _place(root: Path, file: Path) -> tuple[str, ...]:
    """A file's folder, without the words that say what lies in it: train/ of train/images/ and train/annotations/."""
    return tuple(part for part in file.parent.relative_to(root).parts if part.lower() not in _CONTENTS)


def _of_other_splits(root: Path, image: Path, label: Path) -> bool:
    return len({_split_at(root, image), _split_at(root, label)} - {None}) == 2


def _of_other_folders(root: Path, image: Path, label: Path) -> bool:
    a, b = set(_place(root, image)), set(_place(root, label))
    return _of_other_splits(root, image, label) or bool(a - b and b - a)


def _nearest(root: Path, pairs: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """Of images and labels that may belong together those whose folders differ least; each occurs once."""

    def distance(pair: tuple[Path, Path]) -> tuple[bool, int, bool]:
        a, b = (file.parent.relative_to(root) for file in pair)
        return a != b, len({*a.parts} ^ {*b.parts}), b.name.lower() != "annotations"

    left = sorted(pairs, key=distance)
    while left:
        image, label = left[0]
        rivals = [pair for pair in left[1:] if pair[0] == image or pair[1] == label]
        if rivals and distance(rivals[0]) == distance(left[0]):
            one, other, file = (image, rivals[0][0], label) if rivals[0][1] == label else (label, rivals[0][1], image)
            raise DataError(
                f"{one} and {other} both fit {file} by their name: rename one, or give images and labels folders of "
                "the same names."
            )
        yield image, label
        left = [pair for pair in left if pair[0] != image and pair[1] != label]


def _grouped(files: Iterable[Path], key: Callable[[Path], Hashable]) -> dict[Hashable, list[Path]]:
    result: dict[Hashable, list[Path]] = {}
    for file in files:
        result.setdefault(key(file), []).append(file)
    return result


# ---------------------------------------------------------------------------------------------- both


def _note_labels(found: ForeignSet, files: list[Path]) -> None:
    if files:
        names = [os.path.relpath(file, found.root).replace(os.sep, "/") for file in files]
        found.notes.append(f"Files of labels without an image, left out: {_counted(names)}")


def _counted(names: list[str]) -> str:
    return f"{len(names)} ({shortened(names)})"


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
