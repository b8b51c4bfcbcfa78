"""YOLO's format: data.yaml, or folders of images and labels; a text file with shares of the image for each image."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError
from ..layouts import TEST, TRAIN, VAL
from .base import (
    SMALLEST_POLYGON,
    Converter,
    Label,
    files_below,
    files_in,
    images_below,
    needed,
    read_text,
)

_READER = "supervision.dataset.formats.yolo"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_YAML, _MAX_DEPTH, _MAX_CLASSES = 1 << 20, 20, 100_000
_MAX_LIST = 1 << 30  # bytes of a list of images
_SHARES = {TRAIN: (TRAIN,), VAL: (VAL, "valid"), TEST: (TEST,)}  # keys of data.yaml
_OUTSIDE = 0.01  # how far a coordinate may reach out of the image: tools round, and clip late


class Yolo(Converter):
    """The format of YOLO, as Ultralytics and Roboflow write it."""

    name = "YOLO"
    signs = "data.yaml, or images/ and labels/"
    suffixes = (".txt", ".yaml", ".yml", ".names")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has such a YAML file, or a text file in a folder of labels."""
        return data_yaml(root) is not None or any(files_below(root, (".txt",), within="labels"))

    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        """Return the images of the folders in data.yaml, else of all folders, with their labels.

        Raises:
            DataError: Its classes or images are not where it says.
        """
        file = self.named or data_yaml(self.root)
        content = _yaml(file) if file else {}
        self.classes = _class_names(self.root, content)
        if len(set(self.classes)) < len(self.classes):
            ((name, count),) = Counter(self.classes).most_common(1)
            raise DataError(f"{self.root.absolute()} has {count} classes of the name {name!r:.80}: give each its own.")
        self.keypoints = _keypoints(self.root, content)
        splits = self._named(content) if file else self.by_folder(images_below(self.root))
        images = {split: [(image, _label_of(image)) for image in members] for split, members in splits.items()}
        self.note_unused(self._unused({label for pairs in images.values() for _, label in pairs}))
        return images

    def read_labels(self, file: Path, size: tuple[int, int], image: Path) -> Iterator[Label]:
        """Yield the objects of a file: class, center, size, or class and polygon, in shares of the image."""
        lines: list[list[str]] = []
        left_out: list[bool] = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if words := line.split():
                kept = self._without_keypoints(words, number)
                if not re.fullmatch(r"-?\d{1,9}", kept[0]):
                    raise ValueError(f"line {number} has {kept[0][:20]} for a class")
                _check_range(kept[1:], number)
                lines.append(kept)
                left_out.append(len(kept) < len(words))
        # Without masks, into which it would draw the polygons: they are kept below, corner by corner.
        boxes = needed(_READER).yolo_annotations_to_detections(
            [" ".join(words) for words in lines], size, with_masks=False
        )
        for words, box, number, cut in zip(lines, boxes.xyxy.tolist(), boxes.class_id.tolist(), left_out, strict=True):
            if not 0 <= number < len(self.classes):
                raise ValueError(f"class {number}, where there are {len(self.classes)} names")
            corners = words[1:]
            polygon = [float(word) * size[index % 2] for index, word in enumerate(corners[: len(corners) // 2 * 2])]
            polygons = [polygon] if len(corners) >= SMALLEST_POLYGON else []
            yield Label(self.classes[number], tuple(box), polygons, cut)

    def _named(self, content: dict[str, Any]) -> dict[str, list[Path]]:
        """Return the images of the folders and lists that data.yaml names.

        Raises:
            DataError: They are not there.
        """
        splits = {}
        for split, keys in _SHARES.items():
            value = next((content[key] for key in keys if content.get(key)), None)
            places = [value] if isinstance(value, str) else value or []
            if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
                raise DataError(
                    f"data.yaml of {self.root.absolute()} has no folder for {split}: write a path, or a list."
                )
            try:
                images = [one for place in places for one in _images_at(self._placed(content.get("path"), place))]
            except DataError:
                if split != TEST:
                    raise
                images = []
            if places and not images:
                if split == TEST:  # as exports of Roboflow without such a split name it
                    self.notes.append(f"test: {', '.join(places)} has no images, so that tests take those of val")
                    continue
                raise DataError(
                    f"data.yaml of {self.root.absolute()} names {', '.join(places)} for {split}, where no images are: "
                    f"correct it, or leave {split} out."
                )
            splits[split] = list(dict.fromkeys(images))
        return splits

    def _placed(self, base: object, place: str) -> Path:
        """Return where a folder of data.yaml is: `path` is often of the machine that wrote it, and `../` one too many.

        Raises:
            DataError: It is nowhere.
        """
        bases = [Path(base), self.root / base] if isinstance(base, str) else []
        stripped = place.replace("\\", "/")
        while stripped.startswith(("../", "./")):
            stripped = stripped.partition("/")[2]
        for candidate in (*(Path(base) / place for base in bases), self.root / place, self.root / stripped):
            self.places.append(Path(os.path.normpath(candidate)))
            if os.path.exists(candidate):  # unlike Path.exists, also of names that are too long
                return self.places[-1]
        raise DataError(f"data.yaml of {self.root.absolute()} names {place}, which is not there: correct it.")

    def _unused(self, named: set[Path]) -> list[Path]:
        """Return files of labels without an image, also of images that data.yaml does not name."""
        claimed = {os.path.abspath(label) for label in [*named, *map(_label_of, images_below(self.root))]}
        labels = [*files_below(self.root, (".txt",), within="labels"), *named]
        folders = {Path(os.path.abspath(label.parent)) for label in labels}
        files = [file for folder in sorted(folders) if folder.is_dir() for file in files_in(folder, (".txt",))]
        return [file for file in files if str(file) not in claimed and _has_boxes(file)]

    def _without_keypoints(self, words: list[str], number: int) -> list[str]:
        """Return the class and the box of a line with keypoints; other lines as they are, with their confidence."""
        if not self.keypoints or len(words) <= SMALLEST_POLYGON:
            return words
        if len(words) not in (5 + self.keypoints, 6 + self.keypoints):
            raise ValueError(
                f"line {number} has {len(words)} numbers, where kpt_shape in data.yaml makes {5 + self.keypoints} of "
                "them"
            )
        return words[:5]


def data_yaml(root: Path) -> Path | None:
    """Return the file that names the classes and the folders of a dataset, None where there is none."""
    named = root / "data.yaml"
    files = [named] if named.is_file() else files_in(root, (".yaml", ".yml"))
    return next((file for file in files if {"names", *_SHARES} & _yaml(file, file == named).keys() > {"names"}), None)


def _yaml(file: Path, meant: bool = True) -> dict:
    """Return what a file holds; nothing where it is no YAML, unless it is meant.

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


def _keypoints(root: Path, content: dict) -> int:
    """Return how many numbers follow a label's box, by kpt_shape: two or three for each point."""
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
    """Return the names by number, of data.yaml or a text file.

    Raises:
        DataError: There are none, or none that can be used.
    """
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


def _images_at(place: Path) -> list[Path]:
    """Return the images of a folder, or those that a text file lists."""
    if place.is_dir():
        return images_below(place)
    lines = read_text(place, _MAX_LIST).splitlines()
    return [Path(os.path.normpath(place.parent / line.strip())) for line in lines if line.strip()]


def _check_range(words: list[str], number: int) -> None:
    """Refuse coordinates that are no shares of the image: pixels, or what is no coordinate at all."""
    polygon = len(words) >= SMALLEST_POLYGON
    for word in words[: len(words) // 2 * 2 if polygon else 4]:  # a confidence or a number of a track may follow
        if not -_OUTSIDE <= float(word) <= 1 + _OUTSIDE:
            raise ValueError(f"line {number} has {word}, where coordinates go from 0 to 1")


def _has_boxes(file: Path) -> bool:
    """Whether a text file is one of labels, not of class names or of images."""
    words = read_text(file, errors="replace").lstrip().partition("\n")[0].split()
    try:
        return len([float(word) for word in words]) >= 5
    except ValueError:
        return False


def _label_of(image: Path) -> Path:
    """Return the file of an image's labels: its last folder called images becomes labels; else next to the image."""
    parts = list(image.parent.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"
