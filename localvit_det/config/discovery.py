"""Let datasets of a config follow the files that `data_root` has, however they are laid out."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ..datasets import layouts
from ..datasets.annotations import read_annotations
from ..datasets.contents import Content
from ..datasets.converters import convert_in_cache, converted_before
from ..datasets.data_files import check_unread
from ..datasets.layouts import TEST, TRAIN, VAL
from ..datasets.normalize import file_names, held_out, is_copy, normalized
from ..datasets.summary import Annotations
from ..datasets.synthetic_shapes import is_synthetic
from ..errors import ConfigError, DataError, RequirementError, shortened
from .annotation_files import class_order, is_typed, normalize_files, originals, restore_files, set_image_folder
from .utils import SPLITS, dataset_paths, find_datasets, is_coco, parts_of

_DEFAULT_FILES = tuple(f"annotations/instances_{split}2017.json" for split in ("train", "val", "test"))
_LARGE = 30_000_000  # bytes of an annotation file: a second of reading
_SHAPES = "ShapesDataset"
_OWN_FILE = "val_dataloader.dataset.ann_file"


def discover_data(cfg: Config, typed: Sequence[str], data: bool = True) -> bool:
    """Look below the top-level `data_root` where a config's files are not, and let everything follow what is there.

    What somebody has set by hand stays. With the top-level `val_split` a part of the training images is kept for
    validation where the dataset has no others. What MMDetection would stumble over in annotation files, wherever they
    are, is repaired in copies.

    Args:
        typed: Dotted keys of the options.
        data: Look into files that are where the config has them; not needed for inference.

    Returns:
        Whether the dataset takes the place of the synthetic shapes that the config was made for.

    Raises:
        DataError: Nothing there is recognized, and an option asks for this `data_root`.
        ConfigError: `data_root` is a file, or `crowds_as_objects` has no effect.
    """
    share, root = cfg.get("val_split"), cfg.get("data_root")
    found = {split: _dataset(cfg, split, root) for split in SPLITS} if isinstance(root, str) else {}
    datasets = {split: dataset for split, dataset in found.items() if dataset is not None}
    if cfg.get("crowds_as_objects") is not None:
        _check_crowds(cfg, datasets)
    if "data_root" in typed and isinstance(root, str) and os.path.isfile(root.rstrip("/")):
        raise ConfigError(
            f"data_root={root.rstrip('/')} is a file: give the folder of the dataset that it belongs to, as in "
            f"data_root={os.path.dirname(root.rstrip('/')) or '.'} (an archive has to be unpacked)."
        )
    if not isinstance(root, str) or "://" in root or not os.path.isdir(root):
        return False
    restore_files(cfg, datasets, typed)
    old = dict(cfg.get("recognized") or {})
    of_no_choice = {split: one for split, one in datasets.items() if not _is_chosen(cfg, split, one, typed)}
    _test_as_chosen(datasets, of_no_choice)
    missing = any(not os.path.isfile(dataset_paths(dataset)[0] or "") for dataset in of_no_choice.values())
    missing |= bool(of_no_choice and old) and "data_root" in typed  # what is there may be of another root
    in_place = {split: one for split, one in datasets.items() if not missing or split not in of_no_choice}
    # Synthetic shapes that are to be drawn there: their dataset says by itself why it cannot.
    shapes = list(parts_of([*datasets.values()], _SHAPES))
    draws = len(shapes) == len(datasets) and (bool(cfg.get("draw")) or not any(Path(root).iterdir()))
    changes: dict[str, list[str]] = {}
    try:
        if missing and not draws:
            chosen = [one["ann_file"] for one in in_place.values()]
            _follow(cfg, Path(root), of_no_choice, share, typed, without=chosen)
        if data and not draws:
            changes = normalize_files(cfg, Path(root), in_place, typed)
    except (DataError, RequirementError):
        # Inference needs no data: preflight reports it to those who do.
        if "data_root" in typed:
            raise
    if datasets and not missing and not draws and ("data_root" in typed or changes):
        _report_own_files(cfg, Path(root), datasets, share, changes)
    return _leave_shapes(shapes)


def _check_crowds(cfg: Config, datasets: Collection[str]) -> None:
    """Check that `crowds_as_objects` has an effect on all datasets.

    Args:
        datasets: The splits whose files can be exchanged.

    Raises:
        ConfigError: It has not, or is neither True nor False.
    """
    choice = cfg.crowds_as_objects
    if choice not in (True, False):
        raise ConfigError(f"crowds_as_objects={choice!r} is neither True nor False: give one of them.")
    others = [path for split in SPLITS if split not in datasets for path, _ in find_datasets(cfg, split)]
    if choice and others:
        raise ConfigError(
            f"crowds_as_objects=True has no effect on {others[0]}, which is not the only dataset of its split, no "
            "CocoDataset, or not below data_root: set iscrowd to 0 in its file, and leave it out."
        )


def _report_own_files(
    cfg: Config, root: Path, datasets: dict[str, dict], share: float | None, changes: Mapping[str, list[str]]
) -> None:
    """Say what is in the files that a config names itself, and what is changed in copies of them."""
    before = originals(cfg)
    said: dict[str, str] = {}
    counts = []
    for split, dataset in datasets.items():
        file = dataset_paths(dataset)[0]
        name = before[split]["ann_file"] if split in before else dataset["ann_file"]
        if file is None or not os.path.isfile(file) or name in said.values():
            continue
        said[split] = name
        changed = f" ({', '.join(changes[split])})" if changes.get(split) else ""
        counts.append(f"{split}: {name}, {_size(Path(file))}{changed}")
    unused = f"; val_split={share:g} is not used, since there is a validation set" if share is not None else ""
    layout = "COCO's layout" if set(said.values()) <= set(_DEFAULT_FILES) else "the files that are named"
    print_log(f"data_root {root}: {layout}; {'; '.join(counts)}{unused}.", "current")


def _size(file: Path) -> str:
    """Return what is in a file; for one whose reading would take seconds, its size."""
    size = file.stat().st_size
    try:
        return f"{size / 1e6:.0f} MB" if size > _LARGE else _counted(read_annotations(file))
    except DataError:  # preflight reports it
        return "with mistakes"


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
    if ann_file in _DEFAULT_FILES:  # a default, and no choice
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


def _dataset(cfg: Config, split: str, root: str) -> dict | None:
    """Return the only dataset of a split, if it is below the root and of the kind whose files can be exchanged."""
    leaves = [dataset for _, dataset in find_datasets(cfg, split)]
    if len(leaves) != 1 or not is_coco(leaves[0], plain=True):
        return None
    own = leaves[0].get("data_root") or ""
    return leaves[0] if os.path.normpath(own) == os.path.normpath(root) else None


def orders_classes(cfg: Config) -> bool:
    """Whether the files of a config's tests get the order of its classes, whatever their own is."""
    root = cfg.get("data_root")
    return isinstance(root, str) and os.path.isdir(root) and _dataset(cfg, TEST, root) is not None


def _is_chosen(cfg: Config, split: str, dataset: dict, typed: Sequence[str]) -> bool:
    """Whether somebody has named the annotation file of a dataset, in an option or in a config."""
    name = dataset.get("ann_file")
    if is_typed(split, "ann_file", typed) or not name:
        return True
    return not (name in _DEFAULT_FILES or is_copy(name) or name == (cfg.get("recognized") or {}).get(split))


def _test_as_chosen(datasets: dict[str, dict], of_no_choice: dict[str, dict]) -> None:
    """Let tests take the validation's files where only those are named."""
    if TEST in of_no_choice and VAL in datasets and VAL not in of_no_choice:
        for key in ("ann_file", "data_prefix"):
            if key in datasets[VAL]:
                of_no_choice[TEST][key] = datasets[VAL][key]
        del of_no_choice[TEST]


def _leave_shapes(shapes: Sequence[dict]) -> bool:
    """Make datasets of synthetic shapes plain ones of COCO's format, where other images are there."""
    files = [file for dataset in shapes if (file := dataset_paths(dataset)[0]) and os.path.isfile(file)]
    if not files or any(map(is_synthetic, files)):
        return False
    for dataset in shapes:
        dataset["type"] = "CocoDataset"
    return True


def _follow(
    cfg: Config,
    root: Path,
    datasets: dict[str, dict],
    share: float | None,
    typed: Sequence[str],
    without: Collection[str],
) -> None:
    order = class_order(cfg, datasets.get(TRAIN))
    found, files, layout = _look(root, without)
    contents = {file: Content() for file in files.values()}
    names = {split: file_names(root / file, contents[file]) for split, file in files.items()}
    images = {split: _images_of(found, file, names[split]) for split, file in files.items()}
    unused = _unused(found, files)
    parts = _parts(root, files, share if VAL in datasets else 0.0, unused)
    recognized: dict[str, str] = {"layout": layout}
    said: dict[str, str] = {}
    done: list[tuple[tuple[str, set[str] | None], str, Path, Annotations]] = []
    for split, part in parts.items():
        folder, renames = images[part[0]]
        same = next((entry for entry in done if entry[0] == part), None)
        if same is not None:
            said[split] = f"{split}: as {same[1]}"
            copy, summary = same[2:]
        else:
            file = files[part[0]]
            objects = bool(cfg.get("crowds_as_objects"))
            copy, changes = normalized(root / file, renames, part[1], order, objects, contents[file])
            summary = read_annotations(copy)
            changed = f" ({', '.join(changes)})" if changes else ""
            said[split] = f"{split}: {_shown(file)}, {_counted(summary)}{changed}"
            done.append((part, split, copy, summary))
        if split == VAL and part[1] is not None:
            _report_unvalidated(done)
        if split == TRAIN and not order:
            order = summary.categories  # the other files may have them in another one
        recognized[split] = _set_files(datasets.get(split), root, copy, folder, split, typed)
    if shared := _in_both(parts, images, names):
        said["shared"] = f"{shared} images are in train and in val, which makes the results too good"
    if share and all(only is None for _, only in parts.values()):
        said["split"] = f"val_split={share:g} is not used, since there is a validation set"
    if unused:
        said["unused"] = f"not used: {shortened(unused)} (to validate on it: {_OWN_FILE}={unused[0]})"
    cfg.recognized = recognized
    print_log(f"data_root {root}: {recognized['layout']}; {'; '.join(said.values())}.", "current")


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


def _set_files(dataset: dict | None, root: Path, ann_file: Path, folder: str, split: str, typed: Sequence[str]) -> str:
    """Put the files into a dataset, but for what is typed; return the name of the annotation file."""
    absolute = root.absolute()
    name = ann_file.relative_to(absolute).as_posix() if ann_file.is_relative_to(absolute) else str(ann_file)
    if dataset is None:
        return name
    if not is_typed(split, "ann_file", typed):
        dataset["ann_file"] = name
    if not is_typed(split, "data_prefix", typed):
        set_image_folder(dataset, f"{folder}/" if folder else "")
    return name


def _counted(found: Annotations) -> str:
    return f"{len(found.images)} images, {found.boxes} annotations, {len(found.categories)} classes"
