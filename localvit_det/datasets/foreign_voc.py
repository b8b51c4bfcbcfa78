"""Data sets in Pascal VOC's format: which images belong to which split, and where their labels are."""

from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

from ..errors import DataError, shortened
from .foreign_files import (
    VOC,
    ForeignSet,
    by_folder,
    counted,
    files_in,
    folders_with,
    grouped,
    images_in,
    note_labels,
    read_text,
    split_at,
)
from .layouts import IMAGE_SUFFIXES, TEST, TRAIN, VAL

_LISTS = "ImageSets/Main"  # the stems of each split
_IMAGE_FOLDERS = ("image", "images", "img", "imgs", "jpegimages", "data")
_CONTENTS = (*_IMAGE_FOLDERS, "label", "labels", "annotation", "annotations", "xml", "xmls")  # names of folders
_DRAWN = ("SegmentationClass", "SegmentationObject")  # masks, which are images under the images' names


def is_voc(folder: Path) -> bool:
    """Whether the first XML file of a folder is such a label."""
    return any(map(_is_label, files_in(folder, (".xml",))[:1]))


def _is_label(file: Path) -> bool:
    with open(file, "rb") as stream:
        return b"<annotation" in stream.read(2000)


def read_voc(root: Path) -> ForeignSet:
    """Lists the images of a set.

    Raises:
        DataError: A list holds no image that is there, or it is not told whose a label is.
    """
    found = ForeignSet(VOC, root)
    folders = [folder for folder in folders_with(root, *IMAGE_SUFFIXES) if folder.name not in _DRAWN]
    images = [image for folder in folders for image in images_in(folder)]
    labels = [file for folder in folders_with(root, ".xml") for file in files_in(folder, (".xml",))]
    label_of = _paired(root, images, labels)
    for split, members in (_listed(found, images) or by_folder(root, images)).items():
        found.images[split] = [(image, label_of.get(image) or image.with_suffix(".xml")) for image in members]
    left = set(labels) - set(label_of.values())
    note_labels(found, [label for label in labels if label in left and _is_label(label)])
    return found


def _listed(found: ForeignSet, images: list[Path]) -> dict[str, list[Path]]:
    """The images of each split by the lists of the set; nothing where it has none.

    Raises:
        DataError: A list holds no image, or does not tell which.
    """
    by_stem = grouped(images, lambda image: image.stem)
    splits: dict[str, list[Path]] = {}
    for split in (TRAIN, VAL, TEST):
        file = found.root / f"{_LISTS}/{split}.txt"
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
            found.notes.append(f"{split}: listed in {_LISTS}/{split}.txt, but not there: {counted(absent)}")
        members = {_member(found.root, split, by_stem[stem]) for stem in stems if stem in by_stem}
        splits[split] = [image for image in images if image in members]
    listed = {image for members in splits.values() for image in members}
    if splits and len(listed) < len(images):
        rest = [image.relative_to(found.root).as_posix() for image in images if image not in listed]
        found.notes.append(f"Images in no list of {_LISTS}, left out: {counted(rest)}")
    return splits


def _member(root: Path, split: str, images: list[Path]) -> Path:
    """Which of the images of one stem a split's list means: the only one, or the one in the split's folder."""
    own = images if len(images) == 1 else [image for image in images if split_at(root, image) == split]
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
    labels_of = grouped(labels, key)
    result: dict[Path, Path] = {}
    for name, own in grouped(images, key).items():
        pairs = [(image, label) for image in own for label in labels_of.get(name, ()) if not apart(root, image, label)]
        result.update(_nearest(root, pairs))
    return result


def _place(root: Path, file: Path) -> tuple[str, ...]:
    """A file's folder, without the words that say what lies in it: train/ of train/images/ and train/annotations/."""
    return tuple(part for part in file.parent.relative_to(root).parts if part.lower() not in _CONTENTS)


def _of_other_splits(root: Path, image: Path, label: Path) -> bool:
    return len({split_at(root, image), split_at(root, label)} - {None}) == 2


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
