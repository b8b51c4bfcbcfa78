"""Pascal VOC's format: an XML file for each image, and maybe lists of the images of each split."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ...errors import DataError, shortened
from ..layouts import TEST, TRAIN, VAL
from .base import (
    SMALLEST_POLYGON,
    Converter,
    Label,
    counted,
    files_below,
    grouped,
    images_below,
    needed,
    parsed_xml,
    read_text,
)

_READER = "supervision.dataset.formats.pascal_voc"
_LISTS = "ImageSets/Main"  # the stems of each split
_IMAGE_FOLDERS = ("image", "images", "img", "imgs", "jpegimages", "data")
_CONTENTS = (*_IMAGE_FOLDERS, "label", "labels", "annotation", "annotations", "xml", "xmls")  # names of folders
_DRAWN = ("SegmentationClass", "SegmentationObject")  # masks, which are images under the images' names


class Voc(Converter):
    """Pascal VOC's format, and what others lay out like it."""

    name = "Pascal VOC"
    signs = "an .xml file for each image"
    suffixes = (".xml", ".txt")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether the first XML file of a folder is one of labels."""
        folders = groupby(files_below(root, (".xml",)), lambda file: file.parent)
        return any(_is_label(next(files)) for _, files in folders)

    def list_images(self) -> dict[str, list[tuple[Path, Path]]]:
        """Return the images of each split by the lists of the dataset, else by folder, with their labels.

        Raises:
            DataError: A list holds no image that is there, or it is unclear whose a label is.
        """
        images = [image for image in images_below(self.root) if image.parent.name not in _DRAWN]
        labels = list(files_below(self.root, (".xml",)))
        label_of = self._paired(images, labels)
        used = set(label_of.values())
        splits = self._listed(images) or self.by_folder(images)
        self.note_unused([label for label in labels if label not in used and _is_label(label)])
        return {
            split: [(image, label_of.get(image) or image.with_suffix(".xml")) for image in members]
            for split, members in splits.items()
        }

    def read_labels(self, file: Path, size: tuple[int, int], image: Path) -> Iterator[Label]:
        """Yield the objects of a file. Pascal VOC counts pixels from 1, and the last one is inside of a box."""
        root = parsed_xml(file)
        objects = root.findall("object")
        polygons = []
        for item in objects:
            drawn = item.findall("polygon")
            polygons.append([[float(point.text) - 1 for point in polygon] for polygon in drawn])
            for part in polygons[-1]:
                if len(part) < SMALLEST_POLYGON or len(part) % 2:
                    raise ValueError(f"a polygon has {len(part)} numbers")
            for polygon in drawn:
                item.remove(polygon)  # it would be made a mask, and lose its corners
        found, names = needed(_READER).detections_from_xml_obj(root, [], size)
        for box, number, parts in zip(found.xyxy.tolist(), found.class_id.tolist(), polygons, strict=True):
            yield Label(names[number], tuple(box), parts)

    def _listed(self, images: list[Path]) -> dict[str, list[Path]]:
        """Return the images of each split by the lists of the dataset; nothing where it has none.

        Raises:
            DataError: A list holds no image, or it is unclear which.
        """
        by_stem = grouped(images, lambda image: image.stem)
        splits: dict[str, list[Path]] = {}
        for split in (TRAIN, VAL, TEST):
            file = self.root / f"{_LISTS}/{split}.txt"
            if not file.is_file():
                continue
            lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            # A list may have a flag behind the stem, and a stem may have spaces.
            stems = dict.fromkeys(line if line in by_stem else line.split()[0] for line in lines)
            absent = [stem for stem in stems if stem not in by_stem]
            if len(absent) == len(stems):
                named = f"{len(absent)} images, none of which is there ({shortened(absent)})" if absent else "no images"
                raise DataError(f"{file.absolute()} lists {named}: correct the list, or remove it.")
            if absent:
                self.notes.append(f"{split}: listed in {_LISTS}/{split}.txt, but not there: {counted(absent)}")
            members = {self._member(split, by_stem[stem]) for stem in stems if stem in by_stem}
            splits[split] = [image for image in images if image in members]
        listed = {image for members in splits.values() for image in members}
        if splits and len(listed) < len(images):
            rest = [image.relative_to(self.root).as_posix() for image in images if image not in listed]
            self.notes.append(f"Images in no list of {_LISTS}, left out: {counted(rest)}")
        return splits

    def _member(self, split: str, images: Sequence[Path]) -> Path:
        """Return which image of one stem a split's list means: the only one, or the one in the split's folder."""
        own = images if len(images) == 1 else [image for image in images if self.split_of(image) == split]
        if len(own) != 1:
            first, second, *_ = own or images
            raise DataError(
                f"{self.root.absolute()}/{_LISTS}/{split}.txt lists {first.stem}, and both {first} and {second} are "
                "called so: rename one, or lay it into a folder of its split."
            )
        return own[0]

    def _paired(self, images: Sequence[Path], labels: Sequence[Path]) -> dict[Path, Path]:
        """Return the label of each image that has one: by folder and stem, and what remains by its stem.

        Raises:
            DataError: Two fit equally well.
        """
        paired: dict[Path, Path] = {}
        keys: list[Callable[[Path], Hashable]] = [lambda file: (self._place(file), file.stem), lambda file: file.stem]
        for key in keys:
            # Where folders fit each other, a label in another one is that of another image.
            strict, taken = bool(paired), set(paired.values())
            labels_of = grouped((label for label in labels if label not in taken), key)
            for name, own in grouped([image for image in images if image not in paired], key).items():
                pairs = [(image, label) for image in own for label in labels_of.get(name, ())]
                paired.update(self._nearest([pair for pair in pairs if not self._are_apart(*pair, strict)]))
        return paired

    def _place(self, file: Path) -> tuple[str, ...]:
        """Return a file's folder without words for its contents: train/ of train/images/ and train/annotations/."""
        parts = file.parent.relative_to(self.root).parts
        return tuple(part for part in parts if part.lower() not in _CONTENTS)

    def _are_apart(self, image: Path, label: Path, strict: bool) -> bool:
        """Return whether an image and a label are of different splits, or where strict in different folders."""
        a, b = set(self._place(image)), set(self._place(label))
        other_splits = len({self.split_of(image), self.split_of(label)} - {None}) == 2
        return other_splits or (strict and bool(a - b and b - a))

    def _nearest(self, pairs: Sequence[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
        """Yield those of images and labels that may belong together whose folders differ least; each occurs once."""

        def distance(pair: tuple[Path, Path]) -> tuple[bool, int, bool]:
            a, b = (file.parent.relative_to(self.root) for file in pair)
            return a != b, len({*a.parts} ^ {*b.parts}), b.name.lower() != "annotations"

        left = sorted(pairs, key=distance)
        while left:
            image, label = left[0]
            rivals = [pair for pair in left[1:] if pair[0] == image or pair[1] == label]
            if rivals and distance(rivals[0]) == distance(left[0]):
                same_label = rivals[0][1] == label
                one, other, file = (image, rivals[0][0], label) if same_label else (label, rivals[0][1], image)
                raise DataError(
                    f"{one} and {other} both fit {file} by their name: rename one, or give images and labels folders "
                    "of the same names."
                )
            yield image, label
            left = [pair for pair in left if pair[0] != image and pair[1] != label]


def _is_label(file: Path) -> bool:
    with open(file, "rb") as stream:
        return b"<annotation" in stream.read(2000)
