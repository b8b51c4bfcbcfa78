"""The files that the authors of the networks published, `official` as a name for them, and warm starts.

Those of this package's families are declared by the families (`releases`). In a warm start, which is asked for by name,
a backbone takes from another network's weights whatever means the same in both (`warm_starts`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.family import SWIN_RELEASES, SWIN_SIZES, Release
from ..errors import CheckpointError, did_you_mean, shortened
from .identify import families, families_from
from .layouts import official_swin, rename_key, split_joint
from .matching import LoadReport, compare

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
    """A release, and the network that it is of.

    Attributes:
        network: The type of the backbone.
        settings: Its arguments.
    """

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
    """Find the line of a backbone; None for a size that was not published.

    Args:
        cls: Its class.
        settings: Its arguments, as in a config.
    """
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
    """Return the address from which a backbone's official file is downloaded.

    Args:
        cls: The backbone's class.
        settings: Its arguments.
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


NAMES = ("swin",)  # networks whose layout is known here


def warm_start(module: nn.Module, weights: Mapping[str, Tensor], name: str, source: str) -> LoadReport:
    """Load what fits of another network's weights.

    Args:
        module: A backbone of this package.
        weights: The other backbone's, in its official layout, timm's, Hugging Face's, MMDetection's or
            MMPretrain's.
        name: What network that is.
        source: The file's name.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: There is no such warm start, or the weights are of another network or size.
    """
    if name not in NAMES:
        raise CheckpointError(f"There is no warm start '{name}'{did_you_mean(name, NAMES)}: choose from {NAMES}.")
    recipe = getattr(module, "warm_starts", {}).get(name)
    if recipe is None:
        known = ", ".join(cls.__name__ for cls in families_from(name))
        raise CheckpointError(f"A {type(module).__name__} has no warm start from {name}, only {known}: leave it out.")
    official = official_swin(weights)
    if "layers.0.blocks.0.attn.qkv.weight" not in official:
        first = shortened(sorted(official))
        raise CheckpointError(f"{source} holds no weights of a Swin ({first}): give Swin's, or leave warm_start out.")
    official = split_joint(official, recipe.splits)
    target = module.state_dict()
    state, left_out = {}, set()
    for key, tensor in official.items():
        new = rename_key(key, recipe.rules)
        if new is None or (new not in target and re.search(recipe.surplus, key)):
            left_out.add(key)
        else:
            state[new] = tensor
    report, state = compare(module, state, source)
    report.unexpected |= left_out
    report.allowed |= left_out | report.missing
    report.converted = set(report.found)
    report.zeroed = {key for key in report.missing if re.search(recipe.zeros, key)}
    report.missing -= report.zeroed
    if report.problems or not report.found:
        raise CheckpointError(
            f"{source} does not fit a warm start of {report.target} from {name} ({shortened(report.problems)}): give "
            f"the weights of the same size ({recipe.size})."
        )
    values = {key: state[key] for key in report.found}
    values |= {key: torch.zeros_like(target[key]) for key in report.zeroed}
    module.load_state_dict(values, strict=False)
    return report
