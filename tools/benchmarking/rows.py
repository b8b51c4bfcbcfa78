"""The networks that stand side by side: ours, Swin-T as others wrote it, and files that the user names."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.backbones import LocalViT
from localvit_det.backbones.sizes import SWIN_SIZES
from localvit_det.checkpoint.identify import families
from localvit_det.errors import ConfigError, did_you_mean

_ARCHS = {arch[0]: arch for arch in (*SWIN_SIZES, "large")}
_TIMM = {  # how timm calls the networks that it has, too
    "timm_swin": ("swin_{}_patch4_window7_224", "tsb"),
    "timm_pcpvt": ("twins_pcpvt_{}", "sbl"),
    "timm_svt": ("twins_svt_{}", "sbl"),
}


@dataclass(frozen=True)
class Row:
    """One network of the comparison.

    Attributes:
        name: A key of `named_rows()`, or the user's name for an official implementation.
        official: `FILE.py:FUNCTION`, where the function takes nothing and returns the network.
        channels_last: Weights and images in channels-last memory, for networks that do not see to it themselves.
        with_cp: Whole blocks are computed again in backward.
        recompute: Norms and activations are, as is our networks' default.
    """

    name: str
    official: str | None = None
    channels_last: bool = False
    with_cp: bool = False
    recompute: bool = True

    @property
    def label(self) -> str:
        """The name with what was changed."""
        changes = {"channels-last": self.channels_last, "with_cp": self.with_cp}
        changes["recompute_activations=False"] = not self.recompute
        return self.name + "".join(f" ({change})" for change, made in changes.items() if made)

    @property
    def is_ours(self) -> bool:
        """Whether the network is of this package."""
        return self.official is None and self.name.rpartition("_")[0] in _short_names()

    @property
    def takes_with_cp(self) -> bool:
        """Whether the network has a switch for recomputing activations."""
        return self.official is None and not self.name.startswith(("torchvision_", "timm_"))

    def build(self) -> nn.Module:
        """Make the network, with the same weights at each call.

        Raises:
            ConfigError: The official file or function is missing, or the package of the network is not installed.
        """
        torch.manual_seed(0)
        net = _load_official(self.official) if self.official else _build_named(self)
        _randomise_norms(net)
        return net.to(memory_format=torch.channels_last) if self.channels_last else net


def named_rows() -> list[str]:
    """All names that `Row` knows by itself and that can be built here."""
    ours = []
    for name, family in _short_names().items():
        ours += [f"{name}_{key}" for key, arch in _ARCHS.items() if arch in family.arch_settings]
    others = dict.fromkeys(
        ("swin", "torchvision_swin") if importlib.util.find_spec("torchvision") else ("swin",), "tsb"
    )
    if importlib.util.find_spec("timm"):
        others |= {name: sizes for name, (_, sizes) in _TIMM.items()}
    return ours + [f"{name}_{key}" for name, sizes in others.items() for key in sizes]


def make_rows(
    names: Sequence[str],
    official: Sequence[str] = (),
    channels_last: Iterable[str] | None = None,
    with_cp: bool = False,
) -> list[Row]:
    """Turn the arguments of the command line into rows.

    Args:
        names: Named rows; those of `official` may stand among them and otherwise follow.
        official: `NAME=FILE.py:FUNCTION` each.
        channels_last: Rows that also run in channels-last memory; empty: all that are not ours; None: none.
        with_cp: Rows that have the switch also run with it, and ours with nothing recomputed.

    Raises:
        ConfigError: A name is unknown or `official` is misspelt.
    """
    sources: dict[str, str] = {}
    for text in official:
        name, _, source = text.partition("=")
        if not name or ":" not in source:
            raise ConfigError(f"--official {text} must be NAME=FILE.py:FUNCTION.")
        sources[name] = source
    known = [*named_rows(), *sources]
    listed = [*names, *(name for name in sources if name not in names)]
    for name in [*listed, *(channels_last or ())]:
        if name not in known:
            raise ConfigError(f"There is no row {name}{did_you_mean(name, known)}: choose from {', '.join(known)}.")
    rows = []
    for name in listed:
        row = Row(name, sources.get(name))
        rows.append(row)
        if channels_last is not None and (name in channels_last or (not channels_last and not row.is_ours)):
            rows.append(replace(row, channels_last=True))
        if with_cp and row.is_ours:
            rows.append(replace(row, recompute=False))
        if with_cp and row.takes_with_cp:
            rows.append(replace(row, with_cp=True))
    if not rows:
        raise ConfigError(f"Name the backbones to compare: {', '.join(known)}.")
    return rows


def _short_names() -> dict[str, type[LocalViT]]:
    """Our families by their short names; those that somebody else registers may have none."""
    return {name: family for family in families() if (name := vars(family).get("short_name"))}


def _build_named(row: Row) -> nn.Module:
    family, _, size = row.name.rpartition("_")
    if family in _short_names():
        return _short_names()[family](arch=_ARCHS[size], with_cp=row.with_cp, recompute_activations=row.recompute)
    if family == "swin":
        return MODELS.build({"type": "mmdet.SwinTransformer", "with_cp": row.with_cp, **SWIN_SIZES[_ARCHS[size]]})
    if family == "torchvision_swin":
        from torchvision import models

        return getattr(models, f"swin_{size}")().features
    import timm

    options = {"strict_img_size": False} if family == "timm_swin" else {}
    return timm.create_model(_TIMM[family][0].format(_ARCHS[size]), features_only=True, **options)


def _load_official(source: str) -> nn.Module:
    path, _, function = source.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"The file {Path(path).absolute()} of --official does not exist.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ConfigError(f"{path} has no function {function}.")
    return getattr(module, function)()


def _randomise_norms(net: nn.Module) -> None:
    """Give every BatchNorm statistics of its own: with fresh ones a wrong folding would change nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, _BatchNorm)):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.2, 0.2),
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 1.5),
            ):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
