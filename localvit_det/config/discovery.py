"""Let datasets of a config follow the files that `data_root` has, however they are laid out."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ..datasets.annotations import read_annotations
from ..datasets.layouts import TEST, TRAIN, VAL, absent_images, find_images, look_into
from ..datasets.normalize import file_names, is_copy, normalized
from ..datasets.splits import DEFAULT_FILES, counted, find_splits
from ..datasets.synthetic_shapes import is_synthetic
from ..errors import ConfigError, DataError, RequirementError
from .utils import (
    SPLITS,
    dataset_paths,
    find_datasets,
    is_coco,
    is_coco_metric,
    parents_of,
    parts_of,
    value_at,
    walk,
)

_DEFAULT_FOLDERS = tuple(f"{split}2017/" for split in ("train", "val", "test"))
_ORIGINALS = "originals"  # in the config's `recognized`: what datasets were set to before
_LARGE = 30_000_000  # bytes of an annotation file: a second of reading
_SHAPES = "ShapesDataset"


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
    others = [path for split in SPLITS if split not in datasets for path, _ in find_datasets(cfg, split)]
    if cfg.get("crowds_as_objects") and others:
        raise ConfigError(
            f"crowds_as_objects=True has no effect on {others[0]}, which is not the only dataset of its split, no "
            "CocoDataset, or not below data_root: set iscrowd to 0 in its file, and leave it out."
        )
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
            _follow(cfg, of_no_choice, typed, without=[one["ann_file"] for one in in_place.values()])
        if data and not draws:
            changes = normalize_files(cfg, Path(root), in_place, typed)
    except (DataError, RequirementError):
        # Inference needs no data: preflight reports it to those who do.
        if "data_root" in typed:
            raise
    if datasets and not missing and not draws and ("data_root" in typed or changes):
        _report_own_files(cfg, Path(root), datasets, share, changes)
    return _leave_shapes(shapes)


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
    layout = "COCO's layout" if set(said.values()) <= set(DEFAULT_FILES) else "the files that are named"
    print_log(f"data_root {root}: {layout}; {'; '.join(counts)}{unused}.", "current")


def _size(file: Path) -> str:
    """Return what is in a file; for one whose reading would take seconds, its size."""
    size = file.stat().st_size
    try:
        return f"{size / 1e6:.0f} MB" if size > _LARGE else counted(read_annotations(file))
    except DataError:  # preflight reports it
        return "with mistakes"


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
    return not (name in DEFAULT_FILES or is_copy(name) or name == (cfg.get("recognized") or {}).get(split))


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


def _follow(cfg: Config, datasets: Mapping[str, dict], typed: Sequence[str], without: Collection[str]) -> None:
    """Let datasets take what lies below the root, and remember what that is.

    Args:
        without: Annotation files that other datasets have.
    """
    root, objects = Path(cfg.data_root), bool(cfg.get("crowds_as_objects"))
    order = class_order(cfg, datasets.get(TRAIN))
    found, layout, said = find_splits(root, cfg.get("val_split"), VAL in datasets, order, objects, without)
    names = {split: _set_files(datasets.get(split), root, *files, split, typed) for split, files in found.items()}
    cfg.recognized = {"layout": layout, **names}
    print_log(f"data_root {root}: {layout}; {'; '.join(said)}.", "current")


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


def class_order(cfg: Config, dataset: dict | None) -> tuple[str, ...]:
    """Return the order of classes that a config or a dataset of it sets; empty where the files decide."""
    chosen = cfg.get("classes")
    if chosen in (None, "auto"):
        chosen = ((dataset or {}).get("metainfo") or {}).get("classes") if chosen is None else None
    return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def is_typed(split: str, part: str, typed: Sequence[str]) -> bool:
    """Whether an option sets a part of a split's dataset."""
    return any(key.startswith(f"{split}_dataloader.") and part in key.split(".") for key in typed)


def set_image_folder(dataset: dict, folder: str) -> None:
    """Set the folder of a dataset's images, below its root."""
    dataset["data_prefix"] = {**(dataset.get("data_prefix") or {}), "img": folder}


def originals(cfg: Config) -> Mapping[str, Mapping[str, str]]:
    """Return what a config itself names for splits that have copies: their `ann_file` and the `img` of their prefix."""
    return (cfg.get("recognized") or {}).get(_ORIGINALS) or {}


def restore_files(cfg: Config, datasets: Mapping[str, dict], typed: Sequence[str]) -> None:
    """Let datasets name their own files again, where a config was saved with copies in their place."""
    for split, old in originals(cfg).items():
        dataset = datasets.get(split)
        if dataset is not None and is_copy(dataset.get("ann_file") or ""):
            dataset["ann_file"] = old["ann_file"]
            if not is_typed(split, "data_prefix", typed):
                set_image_folder(dataset, old["img"])
    if originals(cfg):
        cfg.recognized = {key: value for key, value in cfg.recognized.items() if key != _ORIGINALS}


def normalize_files(
    cfg: Config, root: Path, datasets: Mapping[str, dict], typed: Sequence[str]
) -> dict[str, list[str]]:
    """Exchange annotation files for normalized copies, and folders of images for those that hold them, where needed.

    A good file is read once, by `read_annotations`, whose result preflight takes.

    Args:
        datasets: Of each split, below the root.
        typed: Dotted keys of the options.

    Returns:
        For each split what was changed, in words.

    Raises:
        DataError: Names of images and files cannot be brought together.
    """
    objects = bool(cfg.get("crowds_as_objects"))
    order = class_order(cfg, datasets.get(TRAIN))
    changes: dict[str, list[str]] = {}
    kept: dict[str, dict[str, str]] = {}
    for split, dataset in datasets.items():
        file, folder = dataset_paths(dataset)
        if file is None or not os.path.isfile(file):
            continue
        try:
            names = file_names(Path(file))
        except DataError:  # preflight reports it
            continue
        old = {"ann_file": dataset["ann_file"], "img": (dataset.get("data_prefix") or {}).get("img") or ""}
        named = old["img"] not in _DEFAULT_FOLDERS or is_typed(split, "data_prefix", typed)
        prefix, renames = _images(root, file, folder, old["img"], named, names)
        copy, changed = normalized(Path(file), renames, None, order, objects)
        if changed:
            dataset["ann_file"] = str(copy)
        if prefix != old["img"]:
            set_image_folder(dataset, prefix)
            changed = changed or [f"images in {prefix or './'}"]
        if changed:
            changes[split], kept[split] = changed, old
        if split == TRAIN and not order:
            with suppress(DataError):  # preflight reports it
                order = read_annotations(copy).categories
    if kept:
        cfg.recognized = {**(cfg.get("recognized") or {}), _ORIGINALS: kept}
    return changes


def _images(
    root: Path, file: str, folder: str | None, own: str, named: bool, names: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return the prefix of a dataset's images, and their right names where the annotation file has others.

    Args:
        own: The prefix as it is.
        named: Whether somebody has set it, so that images are below it alone.
    """
    if folder is None or (os.path.isdir(folder) and not absent_images(folder, names)):
        return own, {}
    if named and not os.path.isdir(folder):  # preflight reports it
        return own, {}
    found, renames = find_images(look_into(folder if named else root), os.path.relpath(file, root), names)
    prefix = os.path.join(own, found) if named else found
    return (f"{prefix}/" if prefix and not prefix.endswith("/") else prefix), renames


def evaluators_follow(cfg: Config, typed: Sequence[str], data: bool = True) -> None:
    """Give evaluators the annotation file, and the panoptic maps, of their dataset, but for what is typed.

    Another file that the config itself names, such as corrected ground truth, stays if it has the dataset's images.

    Args:
        typed: Dotted keys of the options.
        data: Look into annotation files; without it, for inference, a file that a config names stays.
    """
    for split in ("val", "test"):
        leaves = list(find_datasets(cfg, split))
        if len(leaves) != 1 or not is_coco(leaves[0][1]):
            continue
        [(place, dataset)] = leaves
        file = dataset_paths(dataset)[0]
        before = dataset_paths({**dataset, **originals(cfg).get(split, {})})[0]
        plain = is_coco(dataset, plain=True)
        for path, node in walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            own = node.get("ann_file")
            reads = plain and "ann_file" not in node and is_coco_metric(node)
            if file is None or not (isinstance(own, str) or reads):
                continue
            # A copy takes the place of the file that it is made of, whoever has named that.
            as_before = bool(own and before and os.path.abspath(own) == os.path.abspath(before))
            if _sets(f"{path}.ann_file", typed) and not as_before:
                continue
            chosen = as_before or _sets(f"{split}_dataloader.dataset.ann_file", typed)
            # One that is absent, or an older normalized copy, is no other file.
            other = own and not is_copy(own) and os.path.isfile(own) and os.path.realpath(own) != os.path.realpath(file)
            if other and not chosen:
                if not data:
                    continue
                if plain and _names_its_own(cfg.filename, path, place) and _has_images_of(str(own), file):
                    print_log(f"{path}: the images of {file} are scored against {own}, as the config says.", "current")
                    continue
                print_log(
                    f"{path}.ann_file is {own}, and its dataset reads {file}: the latter is scored; for another one "
                    f"give the option {path}.ann_file=FILE.",
                    "current",
                    logging.WARNING,
                )
            node["ann_file"] = file
            maps = (dataset.get("data_prefix") or {}).get("seg")
            if maps and node.get("seg_prefix") and not _sets(f"{path}.seg_prefix", typed):
                node["seg_prefix"] = os.path.join(dataset.get("data_root") or "", maps)


def _names_its_own(config: str | Path | None, evaluator: str, dataset: str) -> bool:
    """Whether a config has another annotation file for an evaluator than for its dataset, and not from a parent alone.

    Where it replaces the file of the dataset, and inherits that of the evaluator, the latter is no choice.

    Args:
        config: The file; None for one that is whole, as in a checkpoint.
        evaluator: Dotted key.
        dataset: Likewise.
    """
    if config is None or Path(config).suffix != ".py":
        return True
    own, file = _named_files(config, evaluator, dataset)
    if own == file:
        return False
    for parent in parents_of(config):
        inherited, of_parent = _named_files(parent, evaluator, dataset)
        if inherited == own:
            return of_parent == file and _names_its_own(parent, evaluator, dataset)
    return True


def _named_files(config: str | Path, evaluator: str, dataset: str) -> list[str | None]:
    values = Config.fromfile(config)._cfg_dict
    parts = [value_at(values, key) for key in (evaluator, dataset)]
    return [dataset_paths(part)[0] if isinstance(part, dict) else None for part in parts]


def _has_images_of(other: str, file: str) -> bool:
    """Whether an annotation file lists all images of another one, by the same ids and names."""
    with suppress(DataError):  # preflight reports it
        images = read_annotations(other).images
        listed = read_annotations(file).images
        return all(identity in images and images[identity][0] == name for identity, (name, *_) in listed.items())
    return False


def _sets(key: str, typed: Sequence[str]) -> bool:
    """Whether an option sets a key, or what it is in."""
    return any(key == one or key.startswith(f"{one}.") for one in typed)
