"""Where in a file the weights are, and what is known of them on their way into a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

# MMEngine rebuilds a state dict on the way and keeps only its `_metadata`, so the label travels there.
_LABEL = "localvit_det"
# MMEngine's own key, and the one of the official classification codes.
_KEYS = ("state_dict", "model")


def weights_in(checkpoint: Mapping[str, Any]) -> Mapping[str, torch.Tensor] | None:
    """The state dict in a checkpoint or the checkpoint itself where it is one; None without any tensors."""
    for content in (*(checkpoint.get(key) for key in _KEYS), checkpoint):
        if isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values()):
            return content
    return None


def label(state: Mapping[str, Any], **facts: str) -> OrderedDict[str, Any]:
    """A copy of a state dict that carries facts about itself, such as its file (`source`)."""
    metadata = getattr(state, "_metadata", {})
    labelled = OrderedDict(state)
    labelled._metadata = OrderedDict(metadata)
    labelled._metadata[_LABEL] = {**metadata.get(_LABEL, {}), **facts}
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
    checkpoint["state_dict"] = label(weights, source=source)
    return checkpoint
