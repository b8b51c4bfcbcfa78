"""Weights of `load_from`: what of a checkpoint may fail to fit, and which rows of its heads belong to which class.

MMEngine takes rows by their index, whatever the classes are, and only logs what does not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import BaseLoop, Runner
from torch import Size, Tensor, nn

from ..checkpoint.layouts import plain_names, weights_in
from ..checkpoint.loading import label, label_of
from ..checkpoint.read import classes_in
from ..config.model import heads_with_classes
from ..config.utils import walk
from ..errors import CheckpointError, shortened
from .processes import unwrapped


@HOOKS.register_module()
class LoadPolicyHook(Hook):
    """Apply the config's `load_policy` to the checkpoint of `load_from`.

    Resuming and testing never start new heads: there 'finetune' counts as 'strict'.
    """

    priority = "VERY_HIGH"  # before EMAHook, which loads the checkpoint, too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Label the weights on their way into the model, and bring the rows of heads into the order of its classes.

        Raises:
            CheckpointError: A training cannot be resumed from what is no training's checkpoint, or the checkpoint is of
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
            parts = [name for name, _ in unwrapped(runner.model).named_children()]
            plain = plain_names(weights, backbone_alone=False, parts=parts)  # which the rows of heads are found by
            checkpoint["state_dict"] = label(plain if plain.keys() != weights.keys() else weights, **facts)
            if training:
                self._match_classes(runner, checkpoint, policy)

    def _match_classes(self, runner: Runner, checkpoint: dict[str, Any], policy: str) -> None:
        metainfo = getattr(runner.train_dataloader.dataset, "metainfo", {})
        classes: str | Sequence[str] = metainfo.get("classes") or ()
        wanted = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
        weights, saved = checkpoint["state_dict"], classes_in(checkpoint)
        if not wanted or saved == wanted or not isinstance(runner.cfg.get("model"), dict):
            return
        source, model = label_of(weights).get("source", "The checkpoint"), unwrapped(runner.model)
        stuff = "thing_classes" in metainfo  # things and stuff have rows in orders of their own
        rows = class_rows(model, runner.cfg.model, stuff)
        if saved is None:
            shapes = model.state_dict()
            if any(name in weights and weights[name].shape == shapes[name].shape for name in rows):
                runner.logger.warning(
                    f"{source} does not name its classes: the rows of its heads are taken for {', '.join(wanted[:10])}"
                    f"{', …' if len(wanted) > 10 else ''}, in this order."
                )
        elif policy == "strict" and (stuff or {*saved} != {*wanted}):
            if len(saved) == len(wanted):  # of another number the loading says so
                raise CheckpointError(
                    f"{source} was trained on the classes {', '.join(saved)}, and the data have {', '.join(wanted)}: "
                    "fine-tune it by --load-from (in a config: load_policy='finetune'), which keeps the rows of classes"
                    " of the same names."
                )
        elif stuff:
            anew = exchange_rows(weights, model, rows, (), wanted).anew
            runner.logger.warning(
                f"{source} has other classes, or in another order, and rows of panoptic heads are not mapped by name: "
                f"tensors that start as initialised: {len(anew)} ({shortened(anew, 10)})."
            )
        else:
            runner.logger.info(f"{source}: {exchange_rows(weights, model, rows, saved, wanted)}")


# ---- rows of heads by class


class Rows(NamedTuple):
    """The first dimension of a tensor: `outer` times all classes and others, each `inner` rows."""

    outer: int
    inner: int
    others: int  # such as the background, behind the classes

    def count(self, classes: int) -> int:
        """Return the number of rows for so many classes."""
        return self.outer * (classes + self.others) * self.inner


@dataclass
class Exchange:
    """The result of `exchange_rows`."""

    kept: list[str]  # classes whose rows were taken from the checkpoint
    new: list[str]  # classes that start as initialised
    unused: list[str]  # classes of the checkpoint alone
    tensors: list[str] = field(default_factory=list)  # names of those whose rows were exchanged
    anew: list[str] = field(default_factory=list)  # tensors whose rows mean nothing known, which start as initialised

    def __str__(self) -> str:
        lists = {
            "classes that keep their rows": self.kept,
            "classes that start as initialised": self.new,
            "classes of the checkpoint alone": self.unused,
            "tensors that start as initialised": self.anew,
        }
        parts = [
            f"{what}: {len(names)} ({shortened(names, 10)})" if names else f"{what}: 0"
            for what, names in lists.items()
            if names or names is self.kept
        ]
        return f"Heads by class name, in {len(self.tensors)} tensors: {'; '.join(parts)}."


def class_rows(model: nn.Module, config: Mapping[str, Any], stuff: bool = False) -> dict[str, Rows | None]:
    """Find the tensors of a model that depend on the number of classes.

    The model is built with one class more, on the meta device, where nothing is allocated: what has another shape then
    depends on the classes, whatever the head; with `stuff` also what depends on the number of stuff classes. Returned
    is the layout of rows of each, None where it is not known.
    """
    larger = copy.deepcopy(config)
    for _, head, key in heads_with_classes({"model": larger}):
        head[key] += 1
        weights = (head.get("loss_cls") or {}).get("class_weight")
        if isinstance(weights, (list, tuple)):
            head["loss_cls"]["class_weight"] = [weights[0], *weights]
    for _, head in walk(larger) if stuff else ():
        if "num_stuff_classes" in head:
            head["num_stuff_classes"] += 1
    try:
        grown = _built_tensors("meta", larger)
    except Exception:  # some parts ask a tensor for its value while they are built
        grown = _built_tensors("cpu", larger)
    return {
        name: _layout_of(model, name, tensor.shape, grown[name].shape)
        for name, tensor in model.state_dict().items()
        if name in grown and grown[name].shape != tensor.shape
    }


def _built_tensors(device: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
        return MODELS.build(copy.deepcopy(config)).state_dict()


def _layout_of(model: nn.Module, name: str, old: Size, new: Size) -> Rows | None:
    """Return the layout of a tensor's rows, from its shapes with one class more and without it."""
    classes = None
    head: nn.Module = model
    module: Any = model
    for child in name.split(".")[:-1]:
        module = getattr(module, child)
        if isinstance(getattr(module, "num_classes", None), int):
            head, classes = module, module.num_classes
    if classes is None or len(old) != len(new) or old[1:] != new[1:]:
        return None
    each = new[0] - old[0]
    others = old[0] - each * classes
    if each == 1 and others in (0, 1):
        return Rows(1, 1, others)
    if each == getattr(head, "num_base_priors", None) and others in (0, each):
        return Rows(each, 1, others // each)  # all classes of the first anchor, then those of the second
    if isinstance(head, BBoxHead) and others == 0:
        return Rows(1, each, 0)  # all coordinates of the first class, then those of the second
    return None


def exchange_rows(
    weights: dict[str, Any],
    model: nn.Module,
    rows: Mapping[str, Rows | None],
    saved: Sequence[str],
    wanted: Sequence[str],
) -> Exchange:
    """Bring the rows of a checkpoint's heads, in place, from the order of its classes into that of the model's.

    Rows of classes that the checkpoint does not have stay as they are in the model.
    """
    place = {name: index for index, name in enumerate(saved)}
    result = Exchange(
        kept=[name for name in wanted if name in place],
        new=[name for name in wanted if name not in place],
        unused=[name for name in saved if name not in wanted],
    )
    targets = [index for index, name in enumerate(wanted) if name in place]
    sources = [place[wanted[index]] for index in targets]
    initial = model.state_dict()
    for name, layout in rows.items():
        old, new = weights.get(name), initial[name]
        if not isinstance(old, Tensor):
            continue
        if layout is None or not targets:
            if old.shape == new.shape:
                weights[name] = new.detach().to("cpu", old.dtype, copy=True)
                result.anew.append(name)
            continue
        counts = layout.count(len(saved)), layout.count(len(wanted))
        if old.shape[1:] != new.shape[1:] or (old.shape[0], new.shape[0]) != counts:
            continue  # of another head: the loading says so
        parts = (layout.outer, -1, layout.inner)
        taken = new.detach().to("cpu", old.dtype, copy=True).unflatten(0, parts)
        given = old.cpu().unflatten(0, parts)
        taken[:, targets] = given[:, sources]
        if layout.others:
            taken[:, -layout.others :] = given[:, -layout.others :]
        weights[name] = taken.flatten(0, 2)
        result.tensors.append(name)
    return result
