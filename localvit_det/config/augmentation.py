"""`augment=NAME`: the augmentation of a training by its name; the recipes are in `configs/_base_/augment.py`."""

from __future__ import annotations

import copy

from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.logging import print_log

from ..config_names import config_folder, type_name
from ..errors import ConfigError, did_you_mean
from .pipelines import fitting_size, scale_training
from .utils import find_datasets, is_coco, parts_of, registered

_MIXED = "MultiImageMixDataset"
_STEP = 32  # pixels


def set_augmentation(cfg: Config) -> None:
    """Put the recipe of the top-level `augment` between loading and packing of the training's pipeline.

    Raises:
        ConfigError: There is no such recipe, or it cannot work with this config.
    """
    name = cfg.augment
    recipes = Config.fromfile(config_folder() / "_base_/augment.py", import_custom_modules=False).augment
    if name not in recipes:
        raise ConfigError(f"augment={name} is none of {', '.join(recipes)}{did_you_mean(name, recipes)}: give one.")
    recipe = copy.deepcopy(recipes[name])
    mixing = next((i for i, step in enumerate(recipe) if hasattr(registered(TRANSFORMS, step), "get_indexes")), None)
    found = [dataset for _, dataset in find_datasets(cfg, "train")]
    size = fitting_size(cfg)
    if len(found) != 1 or size is None or not is_coco(found[0]):
        raise ConfigError(f"augment={name} needs a detector that trains on one dataset in COCO's format: leave it out.")
    if any(parts_of(cfg.get("custom_hooks"), "PipelineSwitchHook")):
        raise ConfigError(
            f"augment={name} does not work with a config whose PipelineSwitchHook changes the pipeline in the middle, "
            "as RTMDet's does, which has mosaics of its own: leave it out."
        )
    dataset = _unwrapped(cfg, found[0])
    loading = [step for step in dataset["pipeline"] if type_name(step).startswith("Load")]
    if mixing is not None and any("Panoptic" in type_name(step) or step.get("with_seg") for step in loading):
        raise ConfigError(f"augment={name} mixes images, which has no place for label maps: give lsj or crop.")
    if "paste" in name and not any(step.get("with_mask") for step in loading):
        raise ConfigError(f"augment={name} pastes objects by their masks, and the config loads none: give mosaic.")
    if any(step.get("crop_size") for step in recipe):  # of squares
        size = (max(_STEP, round((size[0] * size[1]) ** 0.5 / _STEP) * _STEP),) * 2
    scale_training(recipe, size, None)
    packing = [step for step in dataset["pipeline"] if type_name(step).startswith("Pack")]
    if mixing is None:
        dataset["pipeline"] = [*loading, *recipe, *packing]
    else:
        inner = {**dataset, "pipeline": [*loading, *recipe[:mixing]]}
        dataset.clear()
        dataset.update(type=_MIXED, dataset=inner, pipeline=[*recipe[mixing:], *packing])
    print_log(f"augment={name}: {', '.join(map(type_name, recipe))}.", "current")


def _unwrapped(cfg: Config, dataset: dict) -> dict:
    """Return the dataset, out of the wrapper that this module has put round it in a config that was saved."""
    for node in parts_of(cfg.train_dataloader, _MIXED):
        if node.get("dataset") is dataset:
            packing = [step for step in node["pipeline"] if type_name(step).startswith("Pack")]
            inner = {**dataset, "pipeline": [*dataset["pipeline"], *packing]}
            node.clear()
            node.update(inner)
            return node
    return dataset
