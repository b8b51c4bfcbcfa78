"""Finds the COCO-format files and the images below a folder, whatever tool has laid them out."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from ..errors import DataError, shortened

TRAIN, VAL, TEST, WHOLE = "train", "val", "test", "all"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
_OF_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # in COCO's own folder
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_DEPTH = 4  # folders below the root that are looked into
_MAX_JSONS = 20  # more in one folder are one for each image, as LabelMe writes them
_SAMPLE = 50  # file names that are looked for in each folder


@dataclass
class Folders:
    """What lies below a root: names are relative to it, with slashes."""

    root: Path
    jsons: list[str] = field(default_factory=list)
    images: dict[str, list[str]] = field(default_factory=dict)  # folder ("" is the root): file names

    def described(self) -> str:
        """The folders with images, for messages."""
        shown = [f"{folder or '.'}/ ({len(names)})" for folder, names in self.images.items()]
        more = f" and {len(shown) - 6} more folders" if len(shown) > 6 else ""
        return f"images in {', '.join(shown[:6])}{more}" if shown else "no images"


def look_into(root: str | os.PathLike) -> Folders:
    """Lists annotation files in COCO's format and images; hidden folders are passed by."""
    found = Folders(Path(root))
    for folder, folders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(relative.parts) >= _DEPTH:
            folders.clear()
        place = "" if relative == Path(".") else relative.as_posix()
        images = sorted(name for name in files if name.lower().endswith(IMAGE_SUFFIXES))
        if images:
            found.images[place] = images
        jsons = sorted(name for name in files if name.lower().endswith(".json") and not name.startswith("."))
        if len(jsons) <= _MAX_JSONS:
            found.jsons += [f"{place}/{name}".lstrip("/") for name in jsons if _is_coco(Path(folder, name))]
    return found


def _is_coco(path: Path) -> bool:
    """Whether the names of COCO's sections stand in a file; parsing a large one would take a minute."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return not path.name.startswith(_OF_OTHER_TASKS) and all(key in content for key in _KEYS)


def split_of(name: str) -> str | None:
    """The split that the last telling part of a path names: 'train', 'val', 'test', or None."""
    for part in reversed(Path(name).parts):
        splits = {_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def assign(found: Folders) -> dict[str, str]:
    """Says which file is which split's; 'all' is a single file that no split's name marks.

    Raises:
        DataError: There is no file in COCO's format, or several that might be meant.
    """
    by_split: dict[str, list[str]] = {}
    for name in found.jsons:
        by_split.setdefault(split_of(name) or WHOLE, []).append(name)
    if len(by_split) > 1:
        by_split.pop(WHOLE, None)  # such as the file that the others were cut from
    chosen = {}
    for split, names in by_split.items():
        # COCO's folder has other kinds of files beside the instances'.
        telling = [name for name in names if Path(name).name.startswith(("instances", "_annotations.coco"))]
        names = telling or names
        if len(names) > 1:
            what = "" if split == WHOLE else f" for {split}"
            raise _unclear(found, f"has several annotation files{what} ({shortened(names, 5)})", names)
        chosen[split] = names[0]
    if not chosen:
        raise _unclear(found, "holds no annotation file in COCO's format that is recognized", [])
    return chosen


def layout_name(files: dict[str, str]) -> str:
    """What a tool's files are called."""
    paths = [Path(name) for name in files.values()]
    if all(path.name == "_annotations.coco.json" for path in paths):
        return "Roboflow's layout"
    if any(path.name.startswith("instances_") and path.name.endswith("2017.json") for path in paths):
        return "COCO's layout"
    if all(path.name.startswith("instances_") and path.parent.name == "annotations" for path in paths):
        return "CVAT's layout"
    if [path.name for path in paths] == ["result.json"]:
        return "Label Studio's layout"
    return "files in COCO's format"


def find_images(found: Folders, ann_file: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Finds the images that an annotation file lists.

    Args:
        ann_file: Its place, as in `Folders`.
        names: All its file names.

    Returns:
        The folder in which they lie, "" for the root; and, where the names are no paths below it as they are
        (backslashes, other folders than here), the right one for each.

    Raises:
        DataError: None of them is there.
    """
    sample = list(names)[:: max(1, len(names) // _SAMPLE)]
    split, here = split_of(ann_file), Path(ann_file).parent.as_posix()
    # A folder may hold no image itself, but only folders of them.
    folders = {parent for folder in found.images for parent in ("", *_with_parents(folder))}

    def fitness(folder: str) -> tuple:
        hits = sum((found.root / folder / name).is_file() for name in sample)
        marked = split_of(folder)
        same = 0 if marked is None or split is None else 1 if marked == split else -1
        return hits, same, (folder or ".") == here, -folder.count("/") - bool(folder), folder

    best = max(map(fitness, folders), default=None)
    if best is not None and best[0] == len(sample):
        return best[-1], {}
    index: dict[str, list[str]] = {}
    for folder, files in found.images.items():
        for file in files:
            index.setdefault(file, []).append(f"{folder}/{file}".lstrip("/"))
    paths = {name: path for name in names if (path := _nearest(name, index, split))}
    if not paths and (best is None or not best[0]):
        raise _unclear(
            found,
            f"has none of the {len(names)} images that {ann_file} lists, such as {names[0] if names else 'nothing'}",
            [ann_file],
        )
    if best is not None and best[0] >= sum(name in paths for name in sample):
        return best[-1], {}
    return "", {name: paths.get(name, name) for name in names}


def _with_parents(folder: str) -> Iterator[str]:
    parts = folder.split("/")
    yield from ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _nearest(name: str, index: dict[str, list[str]], split: str | None) -> str | None:
    """The path of the image that a name means; None where there is none, or several fit as well."""
    for form in (name, unquote(name)):
        parts = re.split(r"[\\/]|\?d=", form)  # the last as in addresses of Label Studio
        candidates = index.get(parts[-1], [])
        if not candidates:
            continue

        def fitness(path: str, parts: list[str] = parts) -> tuple[int, bool]:
            own = path.split("/")
            pairs = zip(reversed(own), reversed(parts), strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(parts)))
            return common, split is not None and split_of(path) == split

        candidates = sorted(candidates, key=fitness, reverse=True)
        if len(candidates) == 1 or fitness(candidates[0]) > fitness(candidates[1]):
            return candidates[0]
    return None


def _unclear(found: Folders, what: str, names: list[str]) -> DataError:
    return DataError(f"{found.root.absolute()} {what}; {options_for(found, names)}.")


def options_for(found: Folders, names: Sequence[str] = ()) -> str:
    """The options that name the files of a set, with what is there filled in where it is clear."""
    names = names or found.jsons
    seen = f"it has {shortened(names, 5)} and {found.described()}" if names else f"it has {found.described()}"
    options = []
    for split in (TRAIN, VAL):
        of_split = [name for name in names if split_of(name) == split]
        file = of_split[0] if of_split else "FILE.json"
        folder = next((place for place in found.images if split_of(place) == split), None)
        folder = next(iter(found.images), "FOLDER") if folder is None else folder
        options += [f"{split}_dataloader.dataset.ann_file={file}"]
        options += [f"{split}_dataloader.dataset.data_prefix.img={folder or '.'}/"]
    return f"{seen}: set {' '.join(options)} (below data_root; the evaluators follow)"
