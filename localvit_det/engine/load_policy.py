"""What of the checkpoint of `load_from` may fail to fit, and which rows of its heads belong to which class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..checkpoint.entrances import label, label_of
from ..checkpoint.layouts import plain_names, weights_in
from ..checkpoint.read import classes_in
from ..errors import CheckpointError
from .class_rows import class_rows, exchange_rows


@HOOKS.register_module()
class LoadPolicyHook(Hook):
    """Apply the config's `load_policy` to the checkpoint of `load_from`; `load_config` adds it.

    Resuming and testing never start new heads: there 'finetune' counts as 'strict'.
    """

    priority = "VERY_HIGH"  # before EMAHook, which loads the checkpoint, too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Label the weights on their way into the model, and bring the rows of heads into the order of its classes.

        Raises:
            CheckpointError: A training cannot go on from what is no training's checkpoint, or the checkpoint is of
                other classes, where everything has to fit.
        """
        if runner._resume and not {"message_hub", "meta"} <= set(checkpoint):
            raise CheckpointError(
                f"{label_of(weights_in(checkpoint) or {}).get('source', 'The checkpoint')} was not saved in a training "
                "of MMEngine, so there is nothing to resume: start from its weights with --load-from instead."
            )
        policy = runner.cfg.get("load_policy") or "strict"
        training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if policy == "finetune" and not training:
            policy = "strict"
        weights = weights_in(checkpoint)
        if weights is not None:
            facts = {**label_of(weights), "policy": policy}
            parts = [name for name, _ in _unwrapped(runner).named_children()]
            plain = plain_names(weights, backbone_alone=False, parts=parts)  # which the rows of heads are found by
            checkpoint["state_dict"] = label(plain if plain.keys() != weights.keys() else weights, **facts)
            if training:
                self._match_classes(runner, checkpoint, policy)

    def _match_classes(self, runner: Runner, checkpoint: dict[str, Any], policy: str) -> None:
        wanted = _classes(runner)
        if wanted is None or not isinstance(runner.cfg.get("model"), dict):
            return
        weights, saved = checkpoint["state_dict"], classes_in(checkpoint)
        source = label_of(weights).get("source", "The checkpoint")
        if saved == wanted:
            return
        model = _unwrapped(runner)
        rows = class_rows(model, runner.cfg.model)
        if saved is None:
            shapes = model.state_dict()
            if any(name in weights and weights[name].shape == shapes[name].shape for name in rows):
                print_log(
                    f"{source} does not name its classes: the rows of its heads are taken for {', '.join(wanted[:10])}"
                    f"{', …' if len(wanted) > 10 else ''}, in this order.",
                    "current",
                    logging.WARNING,
                )
            return
        if policy == "strict" and {*saved} != {*wanted}:
            if len(saved) != len(wanted):
                return  # the loading says so
            raise CheckpointError(
                f"{source} was trained on the classes {', '.join(saved)}, and the data have {', '.join(wanted)}: "
                "fine-tune it by --load-from (in a config: load_policy='finetune'), which keeps the rows of classes of "
                "the same names."
            )
        print_log(f"{source}: {exchange_rows(weights, model, rows, saved, wanted)}", "current")


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _classes(runner: Runner) -> tuple[str, ...] | None:
    """The classes that the heads of a model are trained on, in order; None where they are not known."""
    names = getattr(runner.train_dataloader.dataset, "metainfo", {})
    classes: str | Sequence[str] | None = names.get("classes")
    if not classes or "thing_classes" in names:  # heads of panoptic models have things and stuff in orders of their own
        return None
    return (classes,) if isinstance(classes, str) else tuple(map(str, classes))
