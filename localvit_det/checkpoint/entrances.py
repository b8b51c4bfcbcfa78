"""Where MMEngine brings weights in: by an address, by an `init_cfg`, by `load_from`; and what they may lack there.

Since PyTorch 2.6 its own `torch.load`, one for each kind of address, cannot read its own checkpoints, and with
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD set it runs whatever a pickle says. Here all addresses lead to `load_weights_only`;
`patches` puts the loaders in place.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from mmengine import dist
from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from ..errors import CheckpointError, did_you_mean
from .embedded_config import defuse
from .layouts import below, describe_choice, plain_names, weights_in
from .read import MapLocation, download, load_weights_only, split_key

# MMEngine rebuilds a state dict on the way and keeps only its `_metadata`, so the label travels there.
_LABEL = "localvit_det"
_ALIASES = {
    "torchvision": mmengine_checkpoint.get_torchvision_models,
    "modelzoo": mmengine_checkpoint.get_torchvision_models,
    "open-mmlab": mmengine_checkpoint.get_external_models,
    "openmmlab": mmengine_checkpoint.get_external_models,
    "mmcls": mmengine_checkpoint.get_mmcls_models,
}


def loaders() -> dict[str, Callable[..., dict]]:
    """Return what loads each kind of address that MMEngine knows, by patterns of its beginning."""
    remote = ("http://", "https://", "pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")
    return {
        "": load_from_local,
        **dict.fromkeys(remote, load_from_remote),
        **dict.fromkeys((f"{alias}://" for alias in _ALIASES), load_from_alias),
    }


def label(state: Mapping[str, Any], **facts: str) -> OrderedDict[str, Any]:
    """A copy of a state dict that carries facts about itself, such as its file (`source`)."""
    metadata = getattr(state, "_metadata", {})
    labelled = OrderedDict(state)
    # Where PyTorch's own state dicts have the versions of their modules.
    setattr(labelled, "_metadata", OrderedDict(metadata) | {_LABEL: {**metadata.get(_LABEL, {}), **facts}})  # noqa: B010
    return labelled


def label_of(state: Mapping[str, Any]) -> dict[str, str]:
    """The facts that :func:`label` attached."""
    return getattr(state, "_metadata", {}).get(_LABEL, {})


def announce(checkpoint: dict[str, Any], source: str) -> dict[str, Any]:
    """Give a checkpoint the form that MMEngine expects, with the weights under `state_dict`, and label them.

    Args:
        checkpoint: What a file holds; a bare state dict stays one.
        source: The file's name.
    """
    weights = weights_in(checkpoint)
    if weights is checkpoint or weights is None:
        return label(checkpoint, source=source)
    checkpoint["state_dict"] = label(weights, source=source, choice=describe_choice(checkpoint))
    return checkpoint


# MMEngine's log line cuts the first ten characters off a loader's name, hence "load_from_".
def load_from_local(filename: str | os.PathLike, map_location: MapLocation | None = None) -> dict:
    """Loads a file; without a `map_location` to the CPU, so that a GPU's checkpoint loads anywhere."""
    checkpoint = load_weights_only(filename, "cpu" if map_location is None else map_location)
    defuse(checkpoint, filename)  # MMEngine runs config texts where it resumes and where it infers
    return announce(checkpoint, source=os.fspath(filename))


def load_from_remote(filename: str, map_location: MapLocation | None = None) -> dict:
    """Downloads a checkpoint once, in the first process, and loads it in all."""
    if dist.get_rank() == 0:
        download(split_key(filename)[0])
    dist.barrier()
    return load_from_local(filename, map_location)


def load_from_alias(filename: str, map_location: MapLocation | None = None) -> dict:
    """Loads a model that MMEngine knows by a name, such as torchvision://resnet50."""
    scheme, name = filename.split("://", 1)
    name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    addresses = _ALIASES[scheme]()
    if name not in addresses:
        hint = did_you_mean(filename, (f"{scheme}://{known}" for known in addresses))
        raise CheckpointError(f"No model has the name {filename}{hint}: give a known one, an https address or a path.")
    address = addresses[name]
    load = load_from_remote if "://" in address else load_from_local
    if load is load_from_local:
        address = f"{mmengine_checkpoint._get_mmengine_home()}/{address}"
    checkpoint = load(address, map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint) if scheme == "mmcls" else checkpoint


def under_prefix(state: Mapping[str, Any], prefix: str, source: str) -> dict[str, Any]:
    """The tensors under the prefix of an `init_cfg`, without it.

    Raises:
        CheckpointError: There are none.
    """
    if inside := below(state, prefix):
        return inside
    raise CheckpointError(
        f"{source} has no tensor whose name begins with {prefix.rstrip('.')}.: correct the prefix of the init_cfg, or "
        "leave it out if the file holds a backbone alone."
    )


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
        self.partial = partial
        self.warm_start = warm_start

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``.

        Raises:
            CheckpointError: It has no tensor under the prefix, or does not fit.
        """
        content = mmengine_checkpoint.CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        state = weights_in(content)
        if state is None:
            state = content
        facts = {"source": self.checkpoint, **label_of(state)}
        source = facts["source"]
        if self.prefix:
            state = under_prefix(state, self.prefix, source)
        if self.warm_start:
            from .warm_start import warm_start  # needs the backbones, which are imported after this

            state = plain_names(state, backbone_alone=True)
            print_log(str(warm_start(module, state, self.warm_start, source)), "current")
        else:
            state = label(state, **{**facts, "policy": "partial" if self.partial else "strict"})
            mmengine_checkpoint.load_state_dict(module, state, strict=False, logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())
