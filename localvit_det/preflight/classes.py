"""Check class names: config against annotations, annotations against heads."""

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoint.read import saved_classes
from ..config.model import heads_with_classes
from ..config.utils import find_datasets, has_stuff, is_semantic, registered
from ..config_names import type_name
from ..datasets.summary import Annotations
from ..errors import CheckpointError, ConfigError, DataError, did_you_mean, shortened
from .resources import pretrained_init

_FIX = "correct them, or take the names from the annotations with classes=auto"


def dataset_classes(path: str, dataset: dict) -> tuple[str, ...] | None:
    """Return the names that a dataset will use: from its `metainfo`, else from its class; None where it has none.

    Raises:
        ConfigError: `metainfo.classes` is one string.
    """
    from mmdet.datasets import BaseDetDataset

    cls = registered(DATASETS, dataset)
    # Video sets name more than is tracked, panoptic ones more than the heads count.
    if not isinstance(cls, type) or not (issubclass(cls, BaseDetDataset) or is_semantic(dataset)) or has_stuff(dataset):
        return None
    classes = (dataset.get("metainfo") or {}).get("classes", cls.METAINFO.get("classes"))
    if isinstance(classes, str):
        raise ConfigError(f"{path}.metainfo.classes is one string: write a tuple, ('{classes}',).")
    return None if classes is None else tuple(classes)


def check_num_classes(cfg: Config, split: str) -> None:
    """Check `num_classes` of all heads against the classes of the datasets.

    Raises:
        ConfigError: They differ.
    """
    for path, dataset in find_datasets(cfg, split):
        classes = dataset_classes(path, dataset)
        if classes is None:
            continue
        for head_path, head, key in heads_with_classes(cfg):
            if head[key] != len(classes):
                raise ConfigError(
                    f"{head_path}.{key} is {head[key]}, but {path} has {len(classes)} "
                    f"classes ({shortened(classes, 5)}): set it to {len(classes)}, or classes=auto for all heads."
                )


def check_saved_classes(cfg: Config, resumed: str | None) -> None:
    """Check that a training goes on with the classes that it began with, in the same order.

    The same holds for a model that starts as a whole by its `init_cfg`, which takes rows of heads as they are.

    Args:
        resumed: The checkpoint that it goes on from, if it does.

    Raises:
        CheckpointError: It would not.
    """
    model = {} if cfg.get("load_from") else cfg.get("model") or {}
    whole = pretrained_init({"init_cfg": model.get("init_cfg")})  # `pretrained` of a whole model is its backbone's
    file = resumed or (whole and whole["checkpoint"])
    saved = saved_classes(file) if file and "://" not in file else None
    if not saved:
        return
    for path, dataset in find_datasets(cfg, "train"):
        classes = dataset_classes(path, dataset)
        if classes is not None and classes != saved:
            raise CheckpointError(
                f"{file} was trained on the classes {shortened(saved, 10)}, and {path} has {shortened(classes, 10)}, "
                "whose order counts: resume with the data and classes that belong to it, or start from its weights by "
                "--load-from, which takes the rows of its heads by class name."
            )


def check_classes(path: str, dataset: dict, found: Annotations) -> None:
    """Check the class names of a dataset against its annotation file.

    MMDetection looks names up in the file and takes the labels in the order of the file: it skips a name that
    is not there without a word, and with it all later labels shift.

    Raises:
        DataError: A name is missing in the file, or the order differs.
    """
    classes = dataset_classes(path, dataset)
    if classes is None:
        return
    missing = [name for name in classes if name not in found.categories]
    unnamed = [name for name in found.categories if name not in classes]
    if 2 * len(missing) > len(classes):
        if not (dataset.get("metainfo") or {}).get("classes"):
            raise DataError(
                f"{found.path} has the classes {shortened(found.categories, 5)}, and the config none of its own, so "
                f"that the {len(classes)} of {type_name(dataset)} would count: take the data's by classes=auto."
            )
        raise DataError(
            f"{len(missing)} of the {len(classes)} classes of {path} ({shortened(missing, 5)}) are not in "
            f"{found.path}, which has {shortened(found.categories, 5)}: {_FIX}."
        )
    if missing:
        hints = shortened([f"'{name}'{did_you_mean(name, unnamed)}" for name in missing], 5)
        raise DataError(
            f"{path} has classes that are not in {found.path}, which would shift all later labels: {hints}; {_FIX}."
        )
    in_file = tuple(name for name in found.categories if name in classes)
    if in_file != classes:
        first = next((a, b) for a, b in zip(in_file, classes, strict=False) if a != b)
        raise DataError(
            f"{path} has its classes in another order than {found.path}, which decides on the labels: where "
            f"the file has '{first[0]}' the config has '{first[1]}'; sort them as the file does, or set "
            "classes=auto."
        )
    if unnamed:
        print_log(f"{path} uses {len(classes)} classes of {found.path}; not: {shortened(unnamed, 5)}.", "current")
