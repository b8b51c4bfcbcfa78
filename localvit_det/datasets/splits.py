"""Find the annotation files and the images of train, val and test below a folder, however they are laid out."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from mmengine.logging import print_log

from ..errors import DataError, shortened
from . import layouts
from .annotations import read_annotations
from .converters import convert_in_cache, converted_before
from .data_files import check_unread
from .json_stream import Content
from .layouts import TEST, TRAIN, VAL
from .normalize import file_names, held_out, normalized
from .summary import Annotations

DEFAULT_FILES = tuple(f"annotations/instances_{split}2017.json" for split in ("train", "val", "test"))
_OWN_FILE = "val_dataloader.dataset.ann_file"


def find_splits(
    root: Path,
    share: float | None,
    validates: bool,
    order: Sequence[str],
    crowds_as_objects: bool,
    without: Collection[str],
) -> tuple[dict[str, tuple[Path, str]], str, list[str]]:
    """Find the files of each split; what MMDetection would stumble over in them is repaired in copies.

    Args:
        share: Of the images that is kept for validation where there is one file.
        validates: Whether anything is validated on what is found.
        order: As of `normalized`; without one that of the training's file.
        crowds_as_objects: Likewise.
        without: Annotation files that are used otherwise.

    Returns:
        For each split its annotation file and the folder of its images below the root; whose layout that is; and what
        there is to say of it.

    Raises:
        DataError: Nothing is recognized, or a part is missing.
    """
    found, files, layout = _look(root, without)
    contents = {file: Content() for file in files.values()}
    names = {split: file_names(root / file, contents[file]) for split, file in files.items()}
    images = {split: _images_of(found, file, names[split]) for split, file in files.items()}
    unused = _unused(found, files)
    parts = _parts(root, files, share if validates else 0.0, unused)
    taken: dict[str, tuple[Path, str]] = {}
    said: list[str] = []
    done: list[tuple[tuple[str, set[str] | None], str, Path, Annotations]] = []
    for split, part in parts.items():
        folder, renames = images[part[0]]
        same = next((entry for entry in done if entry[0] == part), None)
        if same is not None:
            said.append(f"{split}: as {same[1]}")
            copy, summary = same[2:]
        else:
            file = files[part[0]]
            copy, changes = normalized(root / file, renames, part[1], order, crowds_as_objects, contents[file])
            summary = read_annotations(copy)
            changed = f" ({', '.join(changes)})" if changes else ""
            said.append(f"{split}: {_shown(file)}, {counted(summary)}{changed}")
            done.append((part, split, copy, summary))
        if split == VAL and part[1] is not None:
            _report_unvalidated(done)
        if split == TRAIN and not order:
            order = summary.categories  # the other files may have them in another one
        taken[split] = copy, folder
    if shared := _in_both(parts, images, names):
        said.append(f"{shared} images are in train and in val, which makes the results too good")
    if share and all(only is None for _, only in parts.values()):
        said.append(f"val_split={share:g} is not used, since there is a validation set")
    if unused:
        said.append(f"not used: {shortened(unused)} (to validate on it: {_OWN_FILE}={unused[0]})")
    return taken, layout, said


def explain(root: str | None, ann_file: str | None = None) -> str:
    """Return how to name the files of a dataset that are not where a config has them, to stand in a sentence.

    Args:
        root: Of the dataset; None where it is not one in COCO's format.
        ann_file: What the config names.

    Raises:
        DataError: What is there is no such set, or a part of it is missing; the message says what to do.
    """
    if not root or "://" in root or not os.path.isdir(root):
        return "set data_root (--cfg-options data_root=…) to the folder with annotations and images"
    found, files, _ = _look(Path(root))
    if ann_file in DEFAULT_FILES:  # a default, and no choice
        _parts(Path(root), files, None, _unused(found, files))
        for file in files.values():
            _images_of(found, file, file_names(Path(root) / file))
    return layouts.options_for(found)


def _look(root: Path, without: Collection[str] = ()) -> tuple[layouts.Folders, dict[str, str], str]:
    """Return what lies below a root, its annotation files by split, and whose layout that is.

    Raises:
        DataError: Nothing is recognized, or nothing that is read.
    """
    converted = converted_before(root, without)
    found = layouts.look_into(root, jsons=converted is None)
    found.jsons = [name for name in found.jsons if name not in without]
    if not found.jsons:
        converted = converted or convert_in_cache(root, without)
        if converted is not None:
            found.jsons = list(converted.files.values())
            notes = f" ({'; '.join(converted.notes)})" if converted.notes else ""
            whole = len(converted.files) == 1
            files = {split: file for split, file in converted.files.items() if whole or split != layouts.WHOLE}
            return found, files, f"{converted.name}'s format, converted in the cache{notes}"
        check_unread(root, found.images)
    files = layouts.assign(found)
    return found, files, layouts.layout_name(files)


def _images_of(found: layouts.Folders, file: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the folder of a file's images and their right names; what was converted has found them."""
    return ("", {}) if os.path.isabs(file) else layouts.find_images(found, file, names)


def _shown(file: str) -> str:
    """Return how to name an annotation file: those in the cache have no place that means anything."""
    return os.path.basename(file) if os.path.isabs(file) else file


def _unused(found: layouts.Folders, files: dict[str, str]) -> list[str]:
    """Return the annotation files that no split is taken from."""
    return [name for name in found.jsons if name not in files.values()]


def _report_unvalidated(done: Sequence[tuple[object, str, Path, Annotations]]) -> None:
    """Name the classes of which a part that was held out has no object."""
    *_, held = (summary for *_, summary in done)
    learnt = {name for *_, summary in done for name, images in summary.annotated.items() if len(images)}
    lacking = [name for name in held.categories if name in learnt and not len(held.annotated[name])]
    if lacking:
        print_log(
            f"val_split leaves {len(lacking)} of {len(learnt)} classes without an object to validate on: "
            f"{shortened(lacking, 10)}; take a larger share, or name a validation file.",
            "current",
            logging.WARNING,
        )


def _parts(
    root: Path, files: dict[str, str], share: float | None, unused: Sequence[str]
) -> dict[str, tuple[str, set[str] | None]]:
    """Return for each split the file it is taken from, and the names of its images where it gets only some of them.

    Args:
        share: Of the images that is kept for validation where there is one file; 0 for none.
        unused: Other annotation files.

    Raises:
        DataError: There is a single file, and it is not said how to split it.
    """
    validation = next((split for split in (VAL, TEST) if split in files), None)
    if validation is not None:
        parts = {TRAIN: (TRAIN, None), VAL: (validation, None), TEST: (TEST if TEST in files else VAL, None)}
        return {split: part for split, part in parts.items() if part[0] in files}
    [(source, file)] = files.items()
    names = file_names(root / file)
    if share is None:
        what = "an annotation file to train on" if unused else "a single annotation file"
        others = f" (not used: {shortened(unused)})" if unused else ""
        raise DataError(
            f"{root.absolute()} has {what}, {_shown(file)} with {len(names)} images, and nothing to validate on"
            f"{others}: set val_split=0.1, which keeps a tenth of the images for that, always the same ones, or name "
            f"another file by {_OWN_FILE}={unused[0] if unused else 'FILE.json'} (below data_root; val_split=1 "
            "tests on all images)."
        )
    if not share:
        return {TRAIN: (source, None)}
    held = held_out(names, share)
    return {TRAIN: (source, set(names) - held), VAL: (source, held), TEST: (source, held)}


def _in_both(
    parts: dict[str, tuple[str, set[str] | None]],
    images: dict[str, tuple[str, dict[str, str]]],
    names: dict[str, list[str]],
) -> int:
    """Return the number of images that are trained on and validated on."""
    if not {TRAIN, VAL} <= parts.keys():
        return 0
    places = []
    for source, only in (parts[TRAIN], parts[VAL]):
        folder, renames = images[source]
        own = names[source] if only is None else only
        places.append({os.path.normpath(os.path.join(folder, renames.get(name, name))) for name in own})
    return len(places[0] & places[1])


def counted(found: Annotations) -> str:
    """Return the numbers of a summary, to stand in a sentence."""
    return f"{len(found.images)} images, {found.boxes} annotations, {len(found.categories)} classes"
