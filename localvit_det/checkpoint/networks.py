"""The networks that are known here: what weights were made for, by names and shapes, and what their authors published.

The files of this package's families are declared by the families (`releases`); `official` is a name for them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from mmengine.registry import MODELS, Registry
from torch import Size, Tensor, nn

from ..backbones.base import LocalViT
from ..backbones.family import SWIN_RELEASES, SWIN_SIZES, Release, stage_widths
from ..errors import CheckpointError, RequirementError
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


def refuse_taken_names(library: Registry) -> None:
    """Refuse a family under the name of a library's own class, which its configs would build without a word.

    Raises:
        RequirementError: There is one.
    """
    library.import_from_location()  # it registers its classes when one is first looked up
    for name, cls in MODELS.module_dict.items():  # what every library's configs may name
        other = library.module_dict.get(name)
        if isinstance(cls, type) and issubclass(cls, LocalViT) and other not in (None, cls):
            raise RequirementError(
                f"The backbone {name} of {cls.__module__} has the name of a class of {other.__module__}, which configs "
                f"of {library.scope} would build in its place: rename the backbone."
            )


def families_from(network: str) -> list[type[LocalViT]]:
    """Return the families that can start from another network's weights, without those that are made from one."""
    return [cls for cls in families() if network in vars(cls).get("warm_starts", {})]


def find_origin(state: Mapping[str, Tensor]) -> Origin | None:
    """Recognise a backbone's weights in our layout or an official one, without a prefix; None for others."""
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


def common_class_counts(module: nn.Module, mismatched: Mapping[str, tuple[Size, Size]]) -> tuple[int, int] | None:
    """Return the one pair of class counts (of the file, of the model) that explains all other shapes; None without.

    Args:
        mismatched: Shapes in the file and in the model, by the names of tensors.
    """
    explanations = [_class_counts(module, name, *shapes) for name, shapes in mismatched.items()]
    return min(set.intersection(*explanations), default=None) if explanations else None


def _class_counts(module: nn.Module, name: str, old: Size, new: Size) -> set[tuple[int, int]]:
    """Return the class counts that explain why a tensor has another shape.

    A head has k numbers per class, with or without one more class for the background, in its first dimension:
    k = 1 for class scores, 4 for boxes of each class, one per anchor in one-stage detectors.
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


# ---- the files that authors published

OFFICIAL = "official"  # what is given in place of a file
# Of MMDetection's PVT: layers of each stage, size as stated, accuracy.
_PVT = {
    "tiny": ([2, 2, 2, 2], "51M", 75.1),
    "small": ([3, 4, 6, 3], "93M", 79.8),
    "medium": ([3, 4, 18, 3], "168M", 81.2),
    "large": ([3, 8, 27, 3], "234M", 81.7),
}


@dataclass(frozen=True, kw_only=True)
class OfficialFile(Release):
    """A release, and the network that it is of: the type of the backbone, and its arguments."""

    network: str
    settings: dict[str, Any]

    @property
    def layout(self) -> str:
        """What the tensors are called, in words."""
        if self.direct not in ("", self.address):
            return "classifier; the direct address has MMPretrain's copy in its own layout"
        return "classifier of the authors' code" if self.address else ""

    @property
    def advice(self) -> str:
        """Return how to start from it, as the second half of a sentence."""
        if self.direct:
            copy = "" if self.direct == self.address else f", a copy of {self.address}"
            return f"add --pretrained {OFFICIAL}, which downloads {self.direct}{copy}"
        if self.address:
            return f"download the file by hand from {self.address} and add --pretrained FILE"
        own = "pretrain it (docs/tasks.md) and add --pretrained FILE"
        swin = f"add --pretrained {OFFICIAL} --cfg-options warm_start=swin to take what a Swin shares with it, or "
        return f"its authors released no weights, so {swin if self.warm_start else ''}{own}"


def official_files() -> tuple[OfficialFile, ...]:
    """Return those of all families, and of MMDetection's Swin and PVT."""
    return tuple(OfficialFile(network=n, settings=s, **asdict(release)) for n, s, release in _releases())


def _releases() -> Iterator[tuple[str, dict[str, Any], Release]]:
    for family in families():
        for arch, release in vars(family).get("releases", {}).items():
            yield family.__name__, {"arch": arch}, release
    for arch, release in SWIN_RELEASES.items():
        size = SWIN_SIZES[arch]
        yield "SwinTransformer", {"embed_dims": size["embed_dims"], "depths": list(size["depths"])}, release
    for arch, (layers, stated, top1) in _PVT.items():
        address = f"https://github.com/whai362/PVT/releases/download/v2/pvt_{arch}.pth"
        release = Release(address, address, size=stated, top1=top1)
        yield "PyramidVisionTransformer", {"embed_dims": 64, "num_layers": layers}, release


def official_file(cls: object, settings: Mapping[str, Any]) -> OfficialFile | None:
    """Find the line of a backbone by its class and arguments; None for a size that was not published."""
    if not isinstance(cls, type):
        return None
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    for line in official_files():
        # A size by its name is none any more where its widths or depths are given, too.
        wanted = {**dict.fromkeys(("embed_dims", "depths") if "arch" in line.settings else ()), **line.settings}
        given = {key: settings.get(key, defaults.get(key)) for key in wanted}
        plain = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in given.items()}
        if line.network == cls.__name__ and plain == wanted:
            return line
    return None


def official_address(cls: object, settings: Mapping[str, Any], warm_start: bool = False) -> str:
    """Return the address from which a backbone's official file is downloaded; arguments as of :func:`official_file`.

    Args:
        warm_start: Take the Swin's from which it can start, where it has none of its own.

    Raises:
        CheckpointError: There is none; the sentence says what to do instead.
    """
    line = official_file(cls, settings)
    name = getattr(cls, "__name__", cls)
    if line is None:
        raise CheckpointError(
            f"--pretrained {OFFICIAL}: no official file is known for this {name}; `localvit weights` lists those of "
            "all published networks, and any file is taken by --pretrained FILE."
        )
    if warm_start and line.warm_start:
        return line.warm_start
    if not line.direct:
        size = ", ".join(map(str, line.settings.values()))
        raise CheckpointError(f"--pretrained {OFFICIAL} cannot get the weights of {name} {size}: {line.advice}.")
    return line.direct
