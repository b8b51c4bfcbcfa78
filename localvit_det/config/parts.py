"""The parts of a config that completing and checking look for: data sets, heads, necks, backbones."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import Registry

# Parts whose num_classes does not count object classes: RPN is class-agnostic, semantic heads count stuff.
_OTHER_CLASSES = ("rpn_head", "semantic_head", "backbone")


def walk(node: object, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yields (dotted path, dict) for `node` and every dict in it, outermost first."""
    if isinstance(node, dict):
        yield path, node
        children: Iterable = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f"{path}.{key}".lstrip("."))


def find_datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Yields (dotted path, config) of the data sets of a split, looking through wrappers."""

    def leaves(node: object, path: str) -> Iterator[tuple[str, dict]]:
        if isinstance(node, (list, tuple)):
            for index, child in enumerate(node):
                yield from leaves(child, f"{path}.{index}")
        elif isinstance(node, dict):
            inner = [key for key in ("dataset", "datasets") if key in node]
            for key in inner:
                yield from leaves(node[key], f"{path}.{key}")
            if not inner:
                yield path, node

    loader = cfg.get(f"{split}_dataloader") or {}
    yield from leaves(loader.get("dataset"), f"{split}_dataloader.dataset")


def dataset_paths(dataset: dict) -> tuple[str | None, str | None]:
    """Annotation file and image folder, joined as MMEngine's `BaseDataset` does; None where not local."""
    root = dataset.get("data_root") or ""
    prefixes = dataset.get("data_prefix") or {}
    prefixes = prefixes if isinstance(prefixes, dict) else {"img": prefixes}  # MMPretrain has texts
    prefix = prefixes.get("img", prefixes.get("img_path"))  # the latter in MMSegmentation
    backend = (dataset.get("backend_args") or {}).get("backend", "local")

    def joined(part: str | None) -> str | None:
        full = part and os.path.join(root, part)
        return None if not full or "://" in full or backend != "local" else full

    return joined(dataset.get("ann_file")), joined("." if prefix == "" and root else prefix)  # images in the root


def prepare_dataset(dataset: dict, consent: bool) -> None:
    """Lets a data set make its files, where its class has `prepare(data_root, consent)`.

    Args:
        consent: The user wants files to be made at whatever place the config names.

    Raises:
        DataError: They cannot be made, or not without consent.
    """
    prepare = getattr(registered(DATASETS, dataset), "prepare", None)
    if prepare is not None:
        prepare(dataset.get("data_root") or "", consent)


def heads_with_classes(cfg: Config) -> Iterator[tuple[str, dict, str]]:
    """Yields (dotted path, config, key) of the model's parts in which a key counts the object classes."""
    if "language_model" in (cfg.get("model") or {}):  # there it is the length of the text
        return
    for path, node in walk(cfg.get("model"), "model"):
        if set(path.split(".")) & set(_OTHER_CLASSES):
            continue
        # Mask2Former counts things and stuff apart, for instances, too; heads of panoptic models have both sorts.
        for key in ("num_classes", "num_things_classes"):
            if key in node:
                yield path, node, key


def has_stuff(dataset: dict) -> bool:
    """Whether a data set tells things from stuff."""
    return "thing_classes" in (getattr(registered(DATASETS, dataset), "METAINFO", None) or {})


def is_plain_coco(dataset: dict) -> bool:
    """Whether a data set reads its file as `CocoDataset` does; LVIS, panoptic and others have their own ways."""
    from mmdet.datasets import CocoDataset

    cls = registered(DATASETS, dataset)
    return (
        isinstance(cls, type)
        and issubclass(cls, CocoDataset)
        and cls.load_data_list is CocoDataset.load_data_list
        and cls.parse_data_info is CocoDataset.parse_data_info
    )


def is_semantic(dataset: dict) -> bool:
    """Whether a data set is one of MMSegmentation's: a class at every pixel, in files of maps."""
    return hasattr(registered(DATASETS, dataset), "get_label_map")


def first_neck(node: dict) -> dict | None:
    """The neck behind the backbone of a detector, if its `in_channels` lists one number for each map."""
    neck = node.get("neck")
    neck = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if not isinstance(neck, dict) or neck.get("type") == "RFP":  # RFP takes the image as a first map
        return None
    return neck if isinstance(neck.get("in_channels"), (list, tuple)) else None


def known_channels(backbone: dict | None) -> tuple[int, ...] | None:
    """Channels of a backbone's outputs as far as they are known without building it."""
    if not isinstance(backbone, dict) or not isinstance(backbone.get("type"), str):
        return None
    name = backbone["type"].removeprefix("mmdet.")
    indices = backbone.get("out_indices", (0, 1, 2, 3))
    # without import_from_location, which imports all of MMDetection's models: ours are there
    cls = MODELS.module_dict.get(name)
    if hasattr(cls, "out_channels_of"):
        try:
            return tuple(cls.out_channels_of(backbone))
        except (ValueError, TypeError, LookupError):  # a mistake that preflight reports
            return None
    if name == "SwinTransformer" and "arch" not in backbone:  # MMPretrain's, of the same name, has one
        return tuple(backbone.get("embed_dims", 96) * 2**i for i in indices)
    if name in ("PyramidVisionTransformer", "PyramidVisionTransformerV2"):
        heads = backbone.get("num_heads", (1, 2, 5, 8))
        return tuple(backbone.get("embed_dims", 64) * heads[i] for i in indices)
    if name in ("ResNet", "ResNetV1d", "ResNeXt"):
        expansion = 1 if backbone.get("depth") in (18, 34) else 4
        return tuple(backbone.get("base_channels", 64) * expansion * 2**i for i in indices)
    return None


def registered(registry: Registry, config: dict) -> type[Any] | None:
    """The class that `config['type']` means in the scope at hand, None if no registry has it."""
    kind = config.get("type")
    return find_registered(registry, kind) if isinstance(kind, str) else kind


def find_registered(registry: Registry, name: str) -> type[Any] | None:
    """What a name means: in a config of MMSegmentation its own registries are asked first, and not MMDetection's."""
    with registry.switch_scope_and_registry(None) as of_scope:
        return of_scope.get(name)
