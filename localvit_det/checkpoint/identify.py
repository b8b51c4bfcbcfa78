"""Identify what weights were made for, by names and shapes: family, layout and size, number of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from mmengine.registry import MODELS
from torch import Size, Tensor, nn

from ..backbones.base import LocalViT
from ..backbones.family import stage_widths
from .layouts import rename_keys, split_joint

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_WIDTH = "stages.0.blocks.0.mlp.fc1.weight"  # every block has this MLP, embed_dims channels wide


@dataclass(frozen=True)
class Origin:
    """What a backbone's weights were made for."""

    family: type[LocalViT]
    official: bool
    embed_dims: int  # of the first stage
    depths: tuple[int, ...]

    @property
    def arch(self) -> str | None:
        """Return the name of the published size, None for any other."""
        for name, arch in self.family.arch_settings.items():
            widths = stage_widths(arch["embed_dims"], len(arch["depths"]))
            if (widths[0], tuple(arch["depths"])) == (self.embed_dims, self.depths):
                return name
        return None

    def __str__(self) -> str:
        depths = "-".join(map(str, self.depths))
        size = self.arch or f"with {self.embed_dims} channels and {depths} blocks"
        return f"{self.family.__name__} {size}"

    @classmethod
    def of(cls, backbone: LocalViT) -> Origin:
        """Return the origin that weights for ``backbone`` must have."""
        return cls(type(backbone), False, backbone.embed_dims, backbone.depths)


def families() -> list[type[LocalViT]]:
    """Return all registered families of this package's backbones."""
    registries = (MODELS, *MODELS.children.values())  # MMDetection's and its sisters', as far as they are imported
    classes = dict.fromkeys(cls for registry in registries for cls in registry.module_dict.values())
    return [cls for cls in classes if isinstance(cls, type) and issubclass(cls, LocalViT)]


def families_from(network: str) -> list[type[LocalViT]]:
    """Return the families that can start from another network's weights, without those that are made from one."""
    return [cls for cls in families() if network in vars(cls).get("warm_starts", {})]


def find_origin(state: Mapping[str, Tensor]) -> Origin | None:
    """Recognise the weights of a backbone by their names.

    Args:
        state: Tensors by name, in our layout or an official one, without a prefix.

    Returns:
        The origin, None if less than half of the names belong to any family.
    """
    candidates = []
    for family in families():
        for official in (False, True) if family.official_layout else (False,):
            renamed = official_names(state, family) if official else state
            # The check takes the hash of the family's instances for its own.
            names, wanted = _patterns(renamed), _patterns_of(family)  # type: ignore[arg-type]
            candidates.append((len(names & wanted) / len(names | wanted), family, official, renamed))
    # At equal scores the first, so our own layout before an official one that changes nothing.
    score, family, official, renamed = max(candidates, key=lambda candidate: candidate[0])
    if score < 0.5 or _WIDTH not in renamed:
        return None
    blocks = {tuple(map(int, match.groups())) for name in renamed if (match := _BLOCK.match(name))}
    depths = tuple(sum(s == stage for s, _ in blocks) for stage in range(1 + max(s for s, _ in blocks)))
    return Origin(family, official, renamed[_WIDTH].shape[1], depths)


def official_names(state: Mapping[str, Tensor], family: type[LocalViT]) -> dict[str, Tensor]:
    """Return tensors of an official layout of a family under our names."""
    return rename_keys(split_joint(state, family.joint_weights), family.official_layout)


def backbones_in(module: nn.Module) -> dict[str, LocalViT]:
    """Return this package's backbones inside a model, by their prefix ('' for the model itself)."""
    return {f"{n}." if n else "": m for n, m in module.named_modules() if isinstance(m, LocalViT)}


def common_class_counts(module: nn.Module, shapes: Iterable[tuple[str, Size, Size]]) -> tuple[int, int] | None:
    """Return the one pair of class counts that explains all these differences; None if there is none."""
    explanations = [_class_counts(module, *entry) for entry in shapes]
    return min(set.intersection(*explanations), default=None) if explanations else None


def _class_counts(module: nn.Module, name: str, old: Size, new: Size) -> set[tuple[int, int]]:
    """Return the class counts (of the file, of the model) that explain why a tensor has another shape.

    A head has k numbers per class, with or without one more class for the background, in its first dimension:
    k = 1 for class scores, 4 for boxes of each class, one per anchor in one-stage detectors.

    Args:
        module: The model.
        name: Of the tensor in the model.
        old: Its shape in the file.
        new: Its shape in the model.
    """
    wanted = _num_classes(module, name)
    if not wanted or len(old) != len(new) or old[1:] != new[1:]:
        return set()
    counts = set()
    for background in (0, 1):
        per_class, rest = divmod(new[0], wanted + background)
        if not rest and old[0] % per_class == 0 and old[0] // per_class > background:
            counts.add((old[0] // per_class - background, wanted))
    return counts


def _patterns(names: Iterable[str]) -> set[str]:
    """Return names without the numbers of stages and blocks, and without output norms."""
    return {re.sub(r"\.\d+(?=\.)", "", name) for name in names if not name.startswith("out_norms.")}


@cache
def _patterns_of(family: type[LocalViT]) -> set[str]:
    # On the meta device nothing is allocated or drawn.
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return _patterns(family(arch=next(iter(family.arch_settings))).state_dict())


def _num_classes(module: nn.Module, name: str) -> int | None:
    """Return `num_classes` of the innermost head that a tensor belongs to."""
    found: object = None
    inner: object = module
    for child in name.split("."):
        inner = getattr(inner, child, None)
        if not isinstance(inner, nn.Module):
            break
        found = getattr(inner, "num_classes", found)
    return found if isinstance(found, int) else None
