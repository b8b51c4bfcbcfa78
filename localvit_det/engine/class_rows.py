"""Rows of heads by class name, for a checkpoint that was trained on other classes or in another order of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmengine.registry import MODELS
from torch import Size, Tensor, nn

from ..config.parts import heads_with_classes
from ..errors import shortened


class Rows(NamedTuple):
    """How the first dimension of a tensor is made up: `outer` times all classes and others, each `inner` rows.

    Attributes:
        others: Such as the background, behind the classes.
    """

    outer: int
    inner: int
    others: int

    def count(self, classes: int) -> int:
        """All rows for so many classes."""
        return self.outer * (classes + self.others) * self.inner


@dataclass
class Exchange:
    """What became of the rows of classes.

    Attributes:
        kept: Classes whose rows were taken from the checkpoint.
        new: Classes that start as initialised.
        unused: Classes of the checkpoint alone.
        tensors: Names of those whose rows were exchanged.
        anew: Names of tensors whose rows mean nothing that is known, which start as initialised.
    """

    kept: list[str]
    new: list[str]
    unused: list[str]
    tensors: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = (
            ("classes that keep their rows", self.kept),
            ("classes that start as initialised", self.new),
            ("classes of the checkpoint alone", self.unused),
            ("tensors that start as initialised", self.anew),
        )
        parts = [f"{what}: {len(names)}{_listed(names)}" for what, names in told if names or what.endswith("rows")]
        return f"Heads by class name, in {len(self.tensors)} tensors: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return f" ({shortened(names, 10)})" if names else ""


def class_rows(model: nn.Module, config: Mapping[str, Any]) -> dict[str, Rows | None]:
    """Find the tensors of a model that depend on the number of classes.

    The model is built with one class more, on the meta device, where nothing is allocated: what has another shape then
    depends on the classes, whatever the head.

    Args:
        model: The model.
        config: What it was built from.

    Returns:
        The make-up of each such tensor, by name; None where it is not known.
    """
    larger = copy.deepcopy(config)
    for _, head, key in heads_with_classes({"model": larger}):
        head[key] += 1
        weights = (head.get("loss_cls") or {}).get("class_weight")
        if isinstance(weights, (list, tuple)):
            head["loss_cls"]["class_weight"] = [weights[0], *weights]
    try:
        grown = _built("meta", larger)
    except Exception:  # some parts ask a tensor for its value while they are built
        grown = _built("cpu", larger)
    return {
        name: _rows(model, name, tensor.shape, grown[name].shape)
        for name, tensor in model.state_dict().items()
        if name in grown and grown[name].shape != tensor.shape
    }


def _built(device: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
        return MODELS.build(copy.deepcopy(config)).state_dict()


def _rows(model: nn.Module, name: str, old: Size, new: Size) -> Rows | None:
    """The make-up of a tensor, from its shapes with one class more and without it."""
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
    """Bring the rows of a checkpoint's heads into the order of the model's classes.

    Rows of classes that the checkpoint does not have stay as they are in the model.

    Args:
        weights: Of the checkpoint, by name; changed in place.
        model: The model, initialised.
        rows: As `class_rows` gives them.
        saved: Classes of the checkpoint, in the order of its rows.
        wanted: Classes of the model.
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
    for name, make_up in rows.items():
        old, new = weights.get(name), initial[name]
        if not isinstance(old, Tensor):
            continue
        if make_up is None or not targets:
            if old.shape == new.shape:
                weights[name] = new.detach().to("cpu", old.dtype, copy=True)
                result.anew.append(name)
            continue
        counts = make_up.count(len(saved)), make_up.count(len(wanted))
        if old.shape[1:] != new.shape[1:] or (old.shape[0], new.shape[0]) != counts:
            continue  # of another head: the loading says so
        parts = (make_up.outer, -1, make_up.inner)
        taken = new.detach().to("cpu", old.dtype, copy=True).unflatten(0, parts)
        given = old.cpu().unflatten(0, parts)
        taken[:, targets] = given[:, sources]
        if make_up.others:
            taken[:, -make_up.others :] = given[:, -make_up.others :]
        weights[name] = taken.flatten(0, 2)
        result.tensors.append(name)
    return result
