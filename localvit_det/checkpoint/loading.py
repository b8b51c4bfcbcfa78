"""Load weights: by MMEngine's addresses, by an `init_cfg`, by `load_from`; all pass :func:`load_state_dict`.

Since PyTorch 2.6 MMEngine's own `torch.load`, one for each kind of address, cannot read its own checkpoints, and with
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD set it runs whatever a pickle says; its `load_state_dict` only warns where names or
shapes differ, and training goes on from random weights. `patches` puts what is here in their place.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, update_init_info
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from ..backbones.base import LocalViT
from ..config_names import split_key
from ..download import file_name
from ..errors import CheckpointError, did_you_mean, first_line
from ..hub import CONFIG, WEIGHTS, register_reader
from .config_text import parse
from .layouts import below, describe_choice, plain_names, weights_in
from .matching import LoadReport, Policy, compare, prepare, warm_start
from .networks import OFFICIAL, Origin, backbones_in, families, official_address
from .read import BuildLimit, check_is_checkpoint, download, load_weights_only
from .safe_config import defuse, vet
from .safe_pickle import MapLocation, TooLarge

# MMEngine rebuilds a state dict on the way and keeps only its `_metadata`, so the label travels there.
_LABEL = "localvit_det"
_ALIASES = {
    "torchvision": mmengine_checkpoint.get_torchvision_models,
    "modelzoo": mmengine_checkpoint.get_torchvision_models,
    "open-mmlab": mmengine_checkpoint.get_external_models,
    "openmmlab": mmengine_checkpoint.get_external_models,
    "mmcls": mmengine_checkpoint.get_mmcls_models,
}
_mmengine_load_state_dict = mmengine_checkpoint.load_state_dict


# ---- into a model


def load_backbone(backbone: LocalViT, source: str | os.PathLike, prefix: str = "backbone.") -> LoadReport:
    """Load a file into a backbone, and return what happened to every tensor; print it.

    Args:
        source: Path or https address of official weights as they are, of a backbone's state dict, or of a detector,
            whose backbone is taken. `FILE#model_ema` takes the weights under that key of the file; 'official'
            downloads what the backbone's authors published.
        prefix: Of the backbone's names in a detector.

    Raises:
        CheckpointError: The file cannot be read, or its weights do not fit.
    """
    if source == OFFICIAL and not os.path.exists(source):
        source = official_address(type(backbone), {"arch": Origin.of(backbone).arch})
    content = load_weights_only(source)
    state, report = prepare(backbone, below(weights_in(content) or {}, prefix) or content, source=os.fspath(source))
    report.choice = describe_choice(content)
    backbone.load_state_dict(state, strict=False)
    return report


@register_reader(LocalViT)
def read_hub_folder(cls: type[LocalViT], folder: Path, **options: Any) -> LocalViT:
    """Make the backbone that a folder of `save_pretrained` describes: what `from_pretrained` does.

    Args:
        cls: The backbone's class, or `LocalViT` for whichever it is.
        options: Arguments that differ from those in the folder.

    Raises:
        CheckpointError: A file is missing or broken, describes another class or more than is allowed, or does not fit.
    """
    file, config = folder / WEIGHTS, folder / CONFIG
    try:
        settings = vet(parse(config.read_text(encoding="utf-8")), CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config} cannot be read ({first_line(error)}): write it by save_pretrained.") from error
    name = settings.pop("type", None)
    family = cls if name == cls.__name__ else next((one for one in families() if one.__name__ == name), None)
    if family is None or not issubclass(family, cls):
        raise CheckpointError(f"{config} is of a {name}, and no {cls.__name__}: call from_pretrained of its class.")
    check_is_checkpoint(file)
    try:
        with BuildLimit(file.stat().st_size), torch.device("meta"):
            family(**settings)
    except (TooLarge, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{config} describes no network that can be made ({first_line(error)}): write it by save_pretrained."
        ) from error
    net = family(**{**settings, **options})
    load_backbone(net, file)
    return net.eval()


def load_file(module: nn.Module, file: str | os.PathLike, logger: Any = None) -> dict[str, Any]:
    """Load a checkpoint into a model as :func:`load_state_dict` does, and return what the file holds.

    Args:
        file: Path or https address.

    Raises:
        CheckpointError: The file cannot be read, or does not fit.
    """
    content = load_weights_only(file)
    facts = {"source": os.fspath(file), "choice": describe_choice(content), "policy": "strict"}
    weights = label(weights_in(content) or content, **facts)
    load_state_dict(module, weights, logger=logger)
    return content


def load_state_dict(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None) -> None:
    """Convert weights, report, refuse what does not fit, and load the rest: the one function that all weights pass.

    What the weights are, and what of them may fail to fit, is read off their label. Models without a backbone of this
    package load as ever, with the report in addition.

    Args:
        state_dict: Tensors by name in any known layout, or a checkpoint with such a dict in it.
        strict: Whether models of others must fit, too.
        logger: Where the report goes; the current logger of MMEngine by default.

    Raises:
        CheckpointError: The weights do not fit a model with a backbone of this package.
    """
    if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.get_submodule("module")
    ours, logger, facts = bool(backbones_in(module)), logger or "current", label_of(state_dict)
    source = facts.get("source", "a state dict")
    state: Mapping[str, Any]
    if ours:
        try:
            state, report = prepare(module, state_dict, cast(Policy, facts.get("policy", "strict")), source)
        except CheckpointError as error:
            if "policy" in facts or "load_policy" not in str(error):
                raise
            hint = f"{str(error).rstrip('.')}, and custom_hooks=[dict(type='LoadPolicyHook')], which applies it."
            raise CheckpointError(hint) from error
    else:
        plain = plain_names(state_dict, backbone_alone=False, parts=[name for name, _ in module.named_children()])
        state = plain if plain.keys() != state_dict.keys() else state_dict  # which may have metadata
        report = compare(module, state, source)[0]
    report.choice = facts.get("choice", "")
    print_log(str(report), logger, logging.WARNING if report.problems or report.choice else logging.INFO)
    if ours:
        module.load_state_dict(state, strict=False)
    else:
        _mmengine_load_state_dict(module, state, strict, logger)


class PretrainedInit(MMEnginePretrainedInit):
    """MMEngine's `dict(type='Pretrained', ...)`, with two more keys and sentences instead of assertions.

    Args:
        checkpoint: Path or https address.
        prefix: Take only tensors whose names begin so, without that beginning; 'backbone.' for a detector's.
        map_location: As in `torch.load`.
        partial: Take what fits and leave the rest as initialised.
        warm_start: The file is of this other network ('swin'), from which whatever means the same is taken.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = "cpu",
        partial: bool = False,
        warm_start: str | None = None,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.partial, self.warm_start = partial, warm_start

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``; raise CheckpointError where it has no such prefix, or does not fit."""
        content = mmengine_checkpoint.CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        state = weights_in(content) or content
        facts = {"source": self.checkpoint, **label_of(state)}
        if self.prefix:
            state = under_prefix(state, self.prefix, facts["source"])
        if self.warm_start:
            state = plain_names(state, backbone_alone=True)
            print_log(str(warm_start(module, state, self.warm_start, facts["source"])), "current")
        else:
            load_state_dict(module, label(state, **{**facts, "policy": "partial" if self.partial else "strict"}))
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


def under_prefix(state: Mapping[str, Any], prefix: str, source: str) -> dict[str, Any]:
    """Return the tensors under the prefix of an `init_cfg`, without it; raise CheckpointError where there are none."""
    if inside := below(state, prefix):
        return inside
    raise CheckpointError(
        f"{source} has no tensor whose name begins with {prefix.rstrip('.')}.: correct the prefix of the init_cfg, or "
        "leave it out if the file holds a backbone alone."
    )


# ---- addresses of MMEngine's


def loaders() -> dict[str, Callable[..., dict]]:
    """Return what loads each kind of address that MMEngine knows, by patterns of its beginning."""
    return {
        "": load_from_local,
        **dict.fromkeys(("http://", "https://"), load_from_remote),
        **dict.fromkeys((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), load_from_storage),
        **dict.fromkeys((f"{alias}://" for alias in _ALIASES), load_from_alias),
    }


# MMEngine's log line cuts the first ten characters off a loader's name, hence "load_from_".
def load_from_local(filename: str | os.PathLike, map_location: MapLocation | None = None) -> dict:
    """Read a file; without a `map_location` to the CPU, so that a GPU's checkpoint loads anywhere."""
    checkpoint = load_weights_only(filename, "cpu" if map_location is None else map_location)
    defuse(checkpoint, filename, ("config",))  # which MMEngine runs where it resumes
    weights, source = weights_in(checkpoint), os.fspath(filename)
    if weights is None or weights is checkpoint:  # a bare state dict stays one
        return label(checkpoint, source=source)
    # Where MMEngine expects them.
    checkpoint["state_dict"] = label(weights, source=source, choice=describe_choice(checkpoint))
    return checkpoint


def load_for_inference(filename: str, map_location: MapLocation | None = None, logger: Any = None) -> dict:
    """Load a checkpoint for MMEngine's inferencers, which run the text of its config."""
    checkpoint = mmengine_checkpoint._load_checkpoint(filename, map_location, logger)
    defuse(checkpoint, filename, ("cfg",), "give the inferencer a config of your own, too: model='CONFIG.py'")
    return checkpoint


def load_from_storage(filename: str, map_location: MapLocation | None = None) -> dict:
    """Fetch a checkpoint by MMEngine's file backend of the user, and read it."""
    address, key = split_key(filename)
    content = get_file_backend(address, backend_args={"backend": "petrel"}).get(address)
    with TemporaryDirectory() as folder:
        path = Path(folder, file_name(address))
        path.write_bytes(content)
        return load_from_local(f"{path}#{key}" if key else path, map_location)


def load_from_remote(filename: str, map_location: MapLocation | None = None) -> dict:
    """Download a checkpoint once, in the first process, and read it in all."""
    if dist.get_rank() == 0:
        download(split_key(filename)[0])
    dist.barrier()
    return load_from_local(filename, map_location)


def load_from_alias(filename: str, map_location: MapLocation | None = None) -> dict:
    """Read a model that MMEngine knows by a name, such as torchvision://resnet50."""
    scheme, name = filename.split("://", 1)
    name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    addresses = _ALIASES[scheme]()
    if name not in addresses:
        hint = did_you_mean(filename, (f"{scheme}://{known}" for known in addresses))
        raise CheckpointError(f"No model has the name {filename}{hint}: give a known one, an https address or a path.")
    address = addresses[name]
    if "://" in address:
        checkpoint = load_from_remote(address, map_location)
    else:
        checkpoint = load_from_local(f"{mmengine_checkpoint._get_mmengine_home()}/{address}", map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint) if scheme == "mmcls" else checkpoint


# ---- what a state dict says about itself on its way


def label(state: Mapping[str, Any], **facts: str) -> OrderedDict[str, Any]:
    """Return a copy of a state dict that carries facts about itself, such as its file (`source`)."""
    metadata = getattr(state, "_metadata", {})
    labelled: Any = OrderedDict(state)
    # Where PyTorch's own state dicts have the versions of their modules.
    labelled._metadata = OrderedDict(metadata) | {_LABEL: {**metadata.get(_LABEL, {}), **facts}}
    return labelled


def label_of(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts that :func:`label` attached."""
    return getattr(state, "_metadata", {}).get(_LABEL, {})
