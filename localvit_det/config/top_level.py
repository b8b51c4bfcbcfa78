"""Names at the top level of a config: an option that sets another one would be stored under it, in silence."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..errors import ConfigError, did_you_mean

# Names that somebody reads, whether or not the config has them.
_READ = {
    *inspect.signature(Runner.__init__).parameters,
    *("data_root", "classes", "draw", "broken_images", "max_broken_images", "max_pixels", "sync_bn", "compile"),
    *("find_unused_parameters", "custom_imports", "vis_backends", "tta_model", "tta_pipeline", "pretrained"),
    *("load_policy", "warm_start", "omit_hooks", "verbose", "val_split", "image_size", "with_mask", "fit_warmup"),
    *("runner_type", "strategy", "strategy_wrapper", "model_wrapper_cfg", "auto_resume", "non_finite", "recognized"),
    *("activation_checkpointing", "efficient_conv_bn_eval", "test_pipeline", "allow_pickle"),
    *("crowds_as_objects", "pixel_range", "started_with"),
} - {"self", "cfg"}
# Settings by what they are called elsewhere, without underscores.
_MEANT = {
    **dict.fromkeys(("epoch", "epochs", "maxepoch", "maxepochs", "numepochs"), "train_cfg.max_epochs"),
    **dict.fromkeys(("iters", "maxiter", "maxiters"), "train_cfg.max_iters"),
    "valinterval": "train_cfg.val_interval",
    **dict.fromkeys(("lr", "lr0", "learningrate", "baselr"), "optim_wrapper.optimizer.lr"),
    **dict.fromkeys(("wd", "weightdecay"), "optim_wrapper.optimizer.weight_decay"),
    "optimizer": "optim_wrapper.optimizer.type",
    **dict.fromkeys(("batch", "batchsize", "samplespergpu"), "train_dataloader.batch_size"),
    **dict.fromkeys(("workers", "numworkers", "workerspergpu"), "train_dataloader.num_workers"),
    **dict.fromkeys(("seed", "randomseed"), "randomness.seed"),
    "loginterval": "default_hooks.logger.interval",
    **dict.fromkeys(("saveinterval", "checkpointinterval"), "default_hooks.checkpoint.interval"),
    **dict.fromkeys(("class", "classnames", "names", "labels", "categories"), "classes"),
    **dict.fromkeys(("size", "imgsize", "imgsz", "imgscale", "inputsize"), "image_size"),
    "annfile": "train_dataloader.dataset.ann_file",
    **dict.fromkeys(("weights", "checkpoint", "loadfrom"), "load_from"),
    **dict.fromkeys(("output", "outdir", "outputdir", "workdir"), "work_dir"),
    **dict.fromkeys(("dataroot", "data", "root"), "data_root"),
}
_NO_SETTING = {
    **dict.fromkeys(
        ("device", "gpu", "gpus", "gpuids"),
        "leave it out, since a GPU is taken where there is one, and choose by the variable CUDA_VISIBLE_DEVICES "
        "(`localvit predict` has --device)",
    ),
    "numclasses": "set classes=auto, or the names of the classes, which all heads follow",
    "amp": "give --amp",
}


def check_top_level(options: Mapping[str, Any], cfg: Config) -> None:
    """Checks that somebody reads what options set.

    A name that only the config's own file uses may be set, since a user's code may read it; a warning says what it
    does not do.

    Args:
        options: Dotted keys and values.
        cfg: The config without them.

    Raises:
        ConfigError: Nobody does.
    """
    for key, value in options.items():
        top = key.partition(".")[0]
        if top in _READ:
            continue
        instead = _instead(key, value)
        if top not in cfg:
            hint = "" if instead else did_you_mean(top, {*cfg.keys(), *_READ})
            fix = instead or "correct its name, or write it into the config if code of yours reads it"
            raise ConfigError(f"The option {key} sets {top}, which nothing reads{hint}: {fix}.")
        print_log(
            f"The option {key} sets {top}, which only the config's own file uses: what was made of it there stays as "
            f"it was; {instead or 'set that instead'}.",
            "current",
            logging.WARNING,
        )


def _instead(key: str, value: object) -> str | None:
    """What to do where a setting has another name here."""
    if key.startswith("optimizer."):
        return f"set optim_wrapper.{key}={value}"
    plain = key.replace("_", "").replace("-", "").casefold()
    return f"set {_MEANT[plain]}={value}" if plain in _MEANT else _NO_SETTING.get(plain)
