"""Layouts of COCO-format files and their images below a folder, as the tools that export them have it."""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from mmengine.logging import print_log

from ..errors import DataError, shortened
from ..files import holds

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
_LARGEST = 20 << 30  # bytes of a file that is looked at
_MAX_FOLDERS, _MOST_WAYS = 100_000, 8
_SAMPLE = 50  # file names that are looked for in each folder


@dataclass
class Folders:
    """What lies below a root: names are relative to it, with slashes."""

    root: Path
    jsons: list[str] = field(default_factory=list)
    images: dict[str, list[str]] = field(default_factory=dict)  # folder ("" is the root): file names

    def described(self) -> str:
        """Return the folders with images, for messages."""
        shown = [f"{folder or '.'}/ ({len(names)})" for folder, names in self.images.items()]
        more = f" and {len(shown) - 6} more folders" if len(shown) > 6 else ""
        return f"images in {', '.join(shown[:6])}{more}" if shown else "no images"


def look_into(root: str | os.PathLike, jsons: bool = True) -> Folders:
    """List images and, if asked to open `jsons`, those in COCO's format; hidden folders are passed by."""
    found = Folders(Path(root))
    for folder, files in walk_folders(root, _DEPTH):
        relative = folder.relative_to(root)
        place = "" if relative == Path(".") else relative.as_posix()
        images = sorted(name for name in files if name.lower().endswith(IMAGE_SUFFIXES))
        if images:
            found.images[place] = images
        named = sorted(name for name in files if name.lower().endswith(".json") and not name.startswith("."))
        if jsons and len(named) <= _MAX_JSONS:
            found.jsons += [f"{place}/{name}".lstrip("/") for name in named if _is_coco(Path(folder, name))]
    return found


def walk_folders(root: str | os.PathLike, depth: int | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders below a root, itself first, with the names of their files; hidden folders are passed by.

    Links are followed, but into no folder that they lie in, and into none more than a few times: they form circles, and
    ways whose number doubles at each folder.

    Args:
        depth: How many folders deep to look; all by default.

    Raises:
        DataError: There are more folders than any dataset has.
    """
    times: Counter[tuple[int, int]] = Counter()
    status = os.stat(root)
    top = os.fspath(root)
    above = {top: {(status.st_dev, status.st_ino)}}  # a folder and those it lies in, wherever links lead
    for folder, folders, files in os.walk(top, followlinks=True):
        if len(above) > _MAX_FOLDERS:
            raise DataError(f"{Path(root).absolute()} has over {_MAX_FOLDERS:,} folders: name one with a dataset.")
        names = [name for name in sorted(folders) if not name.startswith(".")]
        folders.clear()
        for name in names if depth is None or len(Path(folder).relative_to(root).parts) < depth else ():
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:  # a link that leads nowhere, or only to itself
                continue
            key = status.st_dev, status.st_ino
            times[key] += 1
            if key not in above[folder] and times[key] <= _MOST_WAYS:
                above[path] = above[folder] | {key}
                folders.append(name)
        yield Path(folder), files


def _is_coco(path: Path) -> bool:
    """Whether the names of COCO's sections stand in a file; parsing a large one would take a minute."""
    try:
        small = path.is_file() and path.stat().st_size < _LARGEST
        return small and not path.name.startswith(_OF_OTHER_TASKS) and holds(path, _KEYS)
    except OSError:
        return False


def split_of(name: str) -> str | None:
    """Return the split that the last distinct part of a path names: 'train', 'val', 'test', or None."""
    for part in reversed(Path(name).parts):
        splits = {_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def assign(found: Folders) -> dict[str, str]:
    """Say which file is which split's; 'all' is a single file without a split's name.

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
        # COCO's folder has other kinds of files next to the instances'.
        distinct = [name for name in names if Path(name).name.startswith(("instances", "_annotations.coco"))]
        names = distinct or names
        if len(names) > 1:
            what = "" if split == WHOLE else f" for {split}"
            raise _unclear(found, f"has several annotation files{what} ({shortened(names, 5)})", names)
        chosen[split] = names[0]
    if not chosen:
        raise _unclear(found, "holds no annotation file in COCO's format that is recognized", [])
    return chosen


def layout_name(files: dict[str, str]) -> str:
    """Return the name of the tool whose layout it is, as far as it is known."""
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
    """Find the images that an annotation file lists.

    Args:
        ann_file: Its place, as in `Folders`.
        names: All its file names.

    Returns:
        The folder in which they lie, "" for the root; and, where the names are no paths below it as they are
        (backslashes, other folders than here, other letter case), the right one for each.

    Raises:
        DataError: None of them is there, several names would get the same file, or files of these names lie only in
            folders that the names contradict.
    """
    sample = list(names)[:: max(1, len(names) // _SAMPLE)]
    split, here = split_of(ann_file), Path(ann_file).parent.as_posix()
    # A folder may hold no image itself, but only folders of them.
    folders = {parent for folder in found.images for parent in ("", *_with_parents(folder))}

    def fitness(folder: str) -> tuple:
        hits = len(sample) - len(absent_images(found.root / folder, sample))
        marked = split_of(folder)
        same = 0 if marked is None or split is None else 1 if marked == split else -1
        return hits > 0, same >= 0, hits, same, (folder or ".") == here, -folder.count("/") - bool(folder), folder

    ranked = sorted(map(fitness, folders), reverse=True)
    folder = ranked[0][-1] if ranked and ranked[0][0] else None
    rival = next((place for *fit, place in ranked[1:] if tuple(fit) == ranked[0][:-1]), None)
    either = [absent_images(found.root / place, sample) for place in (folder, rival) if place is not None]
    if folder is not None and rival is not None and {*sample}.difference(*either):
        print_log(
            f"The images that {ann_file} lists are in {folder}/ and in {rival}/: {folder}/ is taken; data_prefix.img "
            "of the dataset sets another one.",
            "current",
            logging.WARNING,
        )
    missing = list(names) if folder is None else absent_images(found.root / folder, names)
    if not missing and folder is not None:
        return folder, {}
    lost = set(missing)
    there = {name: os.path.normpath(os.path.join(folder or "", name)) for name in names if name not in lost}
    paths, contradicted = _matched(found, there, missing, split)
    _check_one_file_each(found, ann_file, {**there, **paths})
    if contradicted:
        name, other = next(iter(contradicted.items()))
        raise _unclear(
            found,
            f"lacks {len(contradicted)} of the {len(names)} images that {ann_file} lists, such as {name}: {other} is "
            "not taken for it, since its folder is another one; bring names and folders into line, or start again as "
            "follows",
            [ann_file],
        )
    if not paths and folder is None:
        raise _unclear(
            found,
            f"has none of the {len(names)} images that {ann_file} lists, such as {names[0] if names else 'nothing'}",
            [ann_file],
        )
    return ("", {name: name for name in names} | there | paths) if paths else (folder or "", {})


def absent_images(folder: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Return which file names are not below a folder, by one listing of each folder instead of a look-up each."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(os.path.dirname(name), []).append(name)
    absent: list[str] = []
    for place, files in by_folder.items():
        full = os.path.join(folder, place)
        there = set(os.listdir(full)) if os.path.isdir(full) else set()
        absent += [name for name in files if os.path.basename(name) not in there]
    return absent


def change_of(name: str, path: str) -> str:
    """Return what kind of correction leads from a name to a path: `case`, `Unicode form`, or nothing to be named."""
    old, new = (re.split(r"[\\/]", one)[-1] for one in (name, path))
    if old == new or unquote(old) == new:
        return ""
    return "Unicode form" if unicodedata.normalize("NFC", old) == unicodedata.normalize("NFC", new) else "case"


def _with_parents(folder: str) -> Iterator[str]:
    parts = folder.split("/")
    yield from ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _folded(text: str) -> str:
    """Return a form that is the same for names which some file systems take for one."""
    return unicodedata.normalize("NFC", text).casefold()


def _matched(
    found: Folders, there: dict[str, str], missing: Sequence[str], split: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Find files for names that are no paths as they are.

    Args:
        there: Paths of the other names of the annotation file.
        missing: The names.
        split: That the annotation file is of.

    Returns:
        Files by the names that mean them; and, for names without one, a file that is called so in another folder.
    """
    index: dict[str, list[str]] = {}
    for folder, files in found.images.items():
        for file in files:
            index.setdefault(_folded(file), []).append(f"{folder}/{file}".lstrip("/"))
    own = [_Name.of(name) for name in (*there, *missing)]
    # Folders that distinguish some names; names that begin elsewhere are compared with their like.
    groups: dict[tuple, list[set[str]]] = {}
    for name in own:
        groups.setdefault(name.origin, []).append(set(name.folders))
    distinct = {
        origin: {folder for folder in set[str]().union(*parts) if not all(folder in part for part in parts)}
        for origin, parts in groups.items()
    }
    # A folder that has files of the same names as those found in another one holds other images.
    homes: dict[str, set[str]] = {}
    for path in there.values():
        folder, _, file = path.rpartition("/")
        homes.setdefault(_folded(file), set()).add(folder)
    parallel = {
        folder
        for folder, files in found.images.items()
        if any(folder not in homes.get(_folded(file), {folder}) for file in files)
    }
    paths: dict[str, str] = {}
    contradicted: dict[str, str] = {}
    for text in missing:
        for name in (_Name.of(text), _Name.of(unquote(text))):
            candidates = index.get(_folded(name.base), [])
            fitting = [path for path in candidates if name.agrees(path, distinct.get(name.origin, set()), parallel)]
            if nearest := _nearest(name, fitting, split):
                paths[text] = nearest
                contradicted.pop(text, None)
                break
            if candidates and not fitting and name.folders:
                contradicted[text] = candidates[0]
    return paths, contradicted


class _Name(NamedTuple):
    """A file name of an annotation file, in parts; `elsewhere` where it begins at another place than the set's root."""

    folders: tuple[str, ...]
    base: str
    elsewhere: bool

    @classmethod
    def of(cls, name: str) -> "_Name":
        address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None
        name = re.split(r"[?#](?!d=)", name)[0] if address else name  # what follows them in an address is no path
        parts = re.split(r"[\\/]|\?d=", name)  # the last as in addresses of Label Studio
        elsewhere = address or parts[0] in ("", "..") or re.fullmatch("[A-Za-z]:", parts[0]) is not None
        folders = tuple(_folded(part) for part in parts[:-1] if part not in ("", ".", ".."))
        return cls(folders, parts[-1], elsewhere)

    @property
    def origin(self) -> tuple[str, ...]:
        """Return where it begins: () at the root."""
        return ("elsewhere", *self.folders[:1]) if self.elsewhere else ()

    def agrees(self, path: str, distinct: set[str], parallel: set[str]) -> bool:
        """Whether a file may be meant, as far as its folders say.

        Args:
            path: Below the root.
            distinct: Folders that distinguish names of this origin.
            parallel: Folders that hold other images of the same names.
        """
        folder = path.rpartition("/")[0]
        theirs = tuple(map(_folded, folder.split("/"))) if folder else ()
        same = common_end(self.folders, theirs)
        if self.folders and same == len(self.folders):
            return True
        if folder in parallel:
            return False
        if same in (len(self.folders), len(theirs)):
            return True  # one path is the end of the other
        mine, other = self.folders[-1 - same], theirs[-1 - same]
        if other in distinct:
            return False
        # All names get another folder. Where they begin elsewhere, or a split has been made, that is usual.
        splits = {split_of(mine), split_of(other)} - {None}
        return same > 0 or self.elsewhere if not splits else len(splits) == 1


def common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of equal parts at the ends of two paths."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _nearest(name: _Name, candidates: list[str], split: str | None) -> str | None:
    """Return the path of the image that a name means; None where there is none, or several fit as well."""

    def fitness(path: str) -> tuple[int, bool, bool]:
        *folders, file = path.split("/")
        return (
            common_end(name.folders, tuple(map(_folded, folders))),
            split is not None and split_of(path) == split,
            file == name.base,
        )

    ranked = sorted(candidates, key=fitness, reverse=True)
    if ranked and (len(ranked) == 1 or fitness(ranked[0]) > fitness(ranked[1])):
        return ranked[0]
    return None


def _check_one_file_each(found: Folders, ann_file: str, paths: dict[str, str]) -> None:
    """Refuse names of which two would become one file: one of them would get the labels of another image."""
    owners: dict[str, str] = {}
    doubles = [(owner, name) for name, path in paths.items() if (owner := owners.setdefault(path, name)) != name]
    if doubles:
        first, second = doubles[0]
        raise _unclear(
            found,
            f"has fewer images than the {len(paths)} that {ann_file} lists: {first} and {second} would both be "
            f"{paths[first]} ({len(doubles)} such pairs); bring names and folders into line, or start again as follows",
            [ann_file],
        )


def _unclear(found: Folders, what: str, names: list[str]) -> DataError:
    return DataError(f"{found.root.absolute()} {what}; {options_for(found, names)}.")


def options_for(found: Folders, names: Sequence[str] = ()) -> str:
    """Return the options that name the files of a dataset, with what is there filled in where it is clear."""
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
