"""Official checkpoints as clean files in our layout: tensors, and where they come from."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..errors import CheckpointError, RequirementError
from ..files import check_writable, sha256, write_bytes
from .fit import prepare
from .identify import find_origin, official_names
from .layouts import plain_names, weights_in
from .read import load_weights_only, split_key
from .report import LoadReport, no_weights


def convert(source: str | os.PathLike, target: str | os.PathLike, model: dict[str, Any] | None = None) -> LoadReport:
    """Write a checkpoint in our layout, as .pth or .safetensors.

    Args:
        source: A local file in any known layout; `FILE#model_ema` is its weights under that key.
        target: The file to write. Its metadata has the source's name and SHA-256, the network and, for a
            detector, the class names.
        model: Config of the model that it must fit; not needed for backbones of a published size.

    Returns:
        What was converted.

    Raises:
        CheckpointError: The file does not fit, or needs ``model`` to tell.
        OutputError: The target cannot be written, which is found out first.
        RequirementError: A .safetensors file is wanted without the package that writes it.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"{target} must end in .pth or .safetensors.")
    save_safetensors = _safetensors_writer(target) if target.suffix == ".safetensors" else None
    check_writable(target, "The converted file")
    content = load_weights_only(source)
    weights = weights_in(content)
    if weights is None:
        raise CheckpointError(no_weights(str(source), "any model", content))
    with torch.device("meta"):  # only names and shapes are needed
        module = MODELS.build(dict(model)) if model else _backbone_for(weights, source)
    state, report = prepare(module, content, source=str(source))
    names = [name for name in module.state_dict() if name in state]  # in the model's order
    facts = {"source": source.name, "source_sha256": sha256(Path(split_key(source)[0])), "network": report.target}
    classes = (content.get("meta") or {}).get("CLASSES") if content is not weights else None
    tensors = {name: state[name].detach().clone().contiguous() for name in names}
    if save_safetensors is None:
        meta = facts | ({"dataset_meta": {"classes": tuple(classes)}} if classes else {})
        file = io.BytesIO()
        torch.save({"state_dict": tensors, "meta": meta}, file)
        write_bytes(target, file.getbuffer())
    else:
        metadata = facts | ({"classes": "\n".join(classes)} if classes else {})
        write_bytes(target, save_safetensors(tensors, metadata=metadata))
    return report


def _backbone_for(weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    weights = plain_names(weights, backbone_alone=True)
    origin = find_origin(weights)
    if origin is None or origin.arch is None:
        what = "is none of the published backbones" if origin is None else f"is a {origin}, no published size"
        raise CheckpointError(f"{source} {what}: name the config of its model with --config.")
    names = official_names(weights, origin.family) if origin.official else weights
    normed = any(name.startswith("out_norms.") for name in names)
    return origin.family(arch=origin.arch, out_norm_cfg="default" if normed else None)


def _safetensors_writer(target: Path) -> Callable[..., bytes]:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise RequirementError(f"{target} needs the package safetensors: run `pip install safetensors`.") from error
    return save
