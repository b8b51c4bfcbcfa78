"""Find the parts of a config that completing and checking look for, and what their types mean."""

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mmdet.registry
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import Registry

from ..config_names import type_name

SPLITS = ("train", "val", "test")
_PACKAGE = __name__.partition(".")[0] + "."
_OF_RUNS = (
    *("HOOKS", "LOOPS", "METRICS", "MODELS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "TRANSFORMS"),
    "VISBACKENDS",
)


def walk(node: object, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (dotted path, dict) for `node` and every dict in it, outermost first."""
    if isinstance(node, dict):
        yield path, node
        children: Iterable = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f"{path}.{key}".lstrip("."))


def value_at(config: Any, key: str) -> Any:
    """Return what a config has under a dotted key; None if nothing."""
    for part in key.split("."):
        if isinstance(config, (list, tuple)) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, Mapping):
            config = config.get(part)
        else:
            return None
    return config


def parents_of(file: str | os.PathLike) -> list[Path]:
    """Return the files that the file of a config builds on, those of packages as well."""
    names = Config._get_base_files(os.fspath(file))
    return [Path(Config._get_cfg_path(name, os.fspath(file))[0]) for name in names]


def parts_of(node: object, *types: str) -> Iterator[dict]:
    """Yield every dict in `node` whose `type` has one of some bare names, outermost first."""
    return (part for _, part in walk(node) if type_name(part) in types)


def find_datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Yield (dotted path, config) of the datasets of a split, looking through wrappers."""
    loader = cfg.get(f"{split}_dataloader") or {}
    found = [(f"{split}_dataloader.dataset", loader.get("dataset"))]
    while found:
        path, node = found.pop(0)
        if isinstance(node, (list, tuple)):
            found[:0] = [(f"{path}.{index}", child) for index, child in enumerate(node)]
        elif isinstance(node, dict):
            inner = [(f"{path}.{key}", node[key]) for key in ("dataset", "datasets") if key in node]
            found[:0] = inner
            if not inner:
                yield path, node


def dataset_paths(dataset: dict) -> tuple[str | None, str | None]:
    """Return annotation file and image folder, joined as MMEngine's `BaseDataset` does; None where not local."""
    root = dataset.get("data_root") or ""
    prefixes = dataset.get("data_prefix") or {}
    prefixes = prefixes if isinstance(prefixes, dict) else {"img": prefixes}  # MMPretrain has texts
    prefix = prefixes.get("img", prefixes.get("img_path"))  # the latter in MMSegmentation
    prefix = "." if prefix == "" and root else prefix  # images in the root
    local = (dataset.get("backend_args") or {}).get("backend", "local") == "local"
    file, folder = (part and os.path.join(root, part) for part in (dataset.get("ann_file"), prefix))
    return (
        file if local and file and "://" not in file else None,
        folder if local and folder and "://" not in folder else None,
    )


def prepare_dataset(dataset: dict, consent: bool) -> None:
    """Let a dataset make its files, where its class has `prepare(data_root, consent)`.

    Args:
        consent: The user wants files to be made at whatever place the config names.

    Raises:
        DataError: They cannot be made, or not without consent.
    """
    prepare = getattr(registered(DATASETS, dataset), "prepare", None)
    if prepare is not None:
        prepare(dataset.get("data_root") or "", consent)


def has_stuff(dataset: dict) -> bool:
    """Whether a dataset distinguishes things and stuff."""
    return "thing_classes" in (getattr(registered(DATASETS, dataset), "METAINFO", None) or {})


def is_coco(dataset: dict, plain: bool = False) -> bool:
    """Whether a dataset is a `CocoDataset`.

    Args:
        plain: And reads its file as that does; LVIS, panoptic and others have their own ways.
    """
    from mmdet.datasets import CocoDataset

    cls = registered(DATASETS, dataset)
    if not isinstance(cls, type) or not issubclass(cls, CocoDataset):
        return False
    return not plain or (
        cls.load_data_list is CocoDataset.load_data_list and cls.parse_data_info is CocoDataset.parse_data_info
    )


def is_coco_metric(evaluator: Mapping[str, Any]) -> bool:
    """Whether an evaluator is MMDetection's `CocoMetric` or one of ours in its place."""
    return type_name(evaluator) in ("CocoMetric", "ExactCocoMetric", "FastCocoMetric")


def is_semantic(dataset: dict) -> bool:
    """Whether a dataset is one of MMSegmentation's: a class at every pixel, in files of maps."""
    return hasattr(registered(DATASETS, dataset), "get_label_map")


def registered(registry: Registry, part: Mapping[str, Any] | str) -> type[Any] | None:
    """Return the class that a name or a config's `type` means in the current scope; None if no registry has it.

    In a config of MMSegmentation its own registries are asked first, and not MMDetection's.
    """
    kind = part if isinstance(part, str) else part.get("type")
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as of_scope:
        return of_scope.get(kind)


def share_with(scope: str | None) -> None:
    """Let configs of another scope find what trainings need of ours by the names that it has in MMDetection's.

    It waits until such a config runs: code that is imported before may have the names to itself, also in MMEngine's
    root, which is the scope of configs without one. Networks and the runner are there from the beginning.
    """
    for kind in _OF_RUNS if scope != DATASETS.scope else ():
        own: Registry = getattr(mmdet.registry, kind)
        with own.switch_scope_and_registry(scope or own.root.scope) as other:
            for name, cls in own.module_dict.items():
                ours = cls.__module__.startswith(_PACKAGE) and own.root.module_dict.get(name) is not cls
                if ours and name not in other.module_dict:
                    other.register_module(name=name, module=cls)


def default_of(cls: type, argument: str, absent: Any = None) -> Any:
    """Return the default of an argument of a class's constructor, or of a base's behind it; `absent` without such."""
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if argument in parameters:
            return parameters[argument].default
    return absent
