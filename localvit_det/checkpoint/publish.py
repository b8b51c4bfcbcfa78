"""Write checkpoints: published detectors, converted official files, what MMEngine saves; each whole or not at all."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log
from torch import Tensor, nn

from ..config_names import CHECKPOINT_SUFFIXES, split_key
from ..errors import CheckpointError, OutputError
from ..files import atomic_file, check_writable, check_writable_folder, sha256, write_bytes
from ..requirements import require_package
from .config_text import as_text, to_json
from .layouts import plain_names, weights_in
from .matching import LoadReport, prepare, tensors_in
from .networks import find_origin, official_names
from .read import load_weights_only
from .safe_config import metainfo_in, read_config
from .search import checkpoint_file

_mmengine_dump = Config.dump


def publish(
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike | None = None,
    name: str | None = None,
    trusted: bool = False,
) -> Path:
    """Write a training's checkpoint as `name-xxxxxxxx.pth`, x being the start of the file's SHA-256.

    With EMAHook the weights are the averaged ones: MMEngine keeps those in `state_dict`, and the others, which are
    left out, in `ema_state_dict`. Metrics are those that the training measured after the checkpoint's own epoch.

    Args:
        checkpoint: What MMEngine saved in a training, or a work dir.
        out_dir: Where the file goes; next to ``checkpoint`` by default.
        name: Start of the file's name; the config's name or the checkpoint's by default.
        trusted: Keep the whole config, with its data, hooks, imports and types of others.

    Raises:
        CheckpointError: The file cannot be read, has no weights, config or classes, or its config is no plain data.
        OutputError: The folder cannot be written, which is found out first.
    """
    path = Path(checkpoint_file(checkpoint))
    folder = Path(out_dir or path.parent)
    if path.is_file():
        check_writable_folder(folder, "--out-dir" if out_dir else "the checkpoint's folder")
    content = load_weights_only(path)
    weights = weights_in(content)
    if weights is None:
        raise CheckpointError(f"{path} holds no weights: give a checkpoint that was saved in a training.")
    meta = content["meta"] if isinstance(content.get("meta"), dict) else {}
    dataset_meta = metainfo_in(content)
    if not dataset_meta:
        raise CheckpointError(f"{path} does not say its classes: give a checkpoint that was saved in a training.")
    config = read_config(content, path, trusted)
    if "ema_state_dict" in content:
        print_log(f"{path.name} is of a training with averaged weights (EMA): these are published.", "current")
    published = {
        "state_dict": {key: value.detach().cpu().clone() for key, value in weights.items()},
        "meta": {
            "cfg": as_text(config) if trusted else to_json(config),
            "dataset_meta": dataset_meta,
            "ema": "ema_state_dict" in content,
            "epoch": meta.get("epoch"),
            "iter": meta.get("iter"),
            "metrics": measured_metrics(path.parent, meta),
            "versions": versions(),
        },
    }
    config_name = re.sub(r"_\d{8}_\d{6}$", "", str(meta.get("experiment_name") or path.stem))  # without the time stamp
    # A file says its experiment's name, but not in which folder something is written.
    return write_hashed(published, folder, name or Path(config_name).name or path.stem)


def write_hashed(content: Mapping[str, Any], folder: Path, stem: str) -> Path:
    """Save under a name that ends in the first eight digits of the file's SHA-256, as torch.hub checks them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = saved(content)
    path = folder / f"{stem}-{hashlib.sha256(file).hexdigest()[:8]}.pth"
    write_bytes(path, file)
    return path


def saved(content: Mapping[str, Any]) -> memoryview:
    """Return what `torch.save` writes, without a file's name, which would become part of it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getbuffer()


def measured_metrics(work_dir: Path, meta: Mapping[str, Any]) -> dict[str, float]:
    """Return what the training logged in its validation after the checkpoint's epoch (or iteration).

    The checkpoint's own history is no help: it is saved before that validation, and names no epoch.
    """
    metrics: dict[str, float] = {}
    for file in work_dir.glob("*/vis_data/scalars.json"):
        # A resumed training has several logs; the experiment's name ends in the time stamp of the right one.
        if not meta.get("experiment_name", "").endswith(file.parts[-3]):
            continue
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the line at which a training was killed
                continue
            step = entry.pop("step", None)
            # Lines of training have an epoch or a loss; validations have their step alone.
            if step in (meta.get("epoch"), meta.get("iter")) and not {"epoch", "loss"} & set(entry):
                metrics |= {key: value for key, value in entry.items() if "/" in key}
    return metrics


def versions() -> dict[str, str]:
    """Return the versions of everything that the numbers may depend on."""
    names = ("localvit_det", "torch", "mmdet", "mmengine", "mmcv")
    found = {name: str(importlib.import_module(name).__version__) for name in names}
    return {"python": platform.python_version(), **found}


def convert(source: str | os.PathLike, target: str | os.PathLike, model: dict[str, Any] | None = None) -> LoadReport:
    """Write a checkpoint in our layout, as .pth or .safetensors, and return what was converted.

    Args:
        source: A local file in any known layout; `FILE#model_ema` is its weights under that key.
        target: The file to write. Its metadata has the source's name and SHA-256, the network and, for a
            detector, the class names.
        model: Config of the model that it must fit; not needed for backbones of a published size.

    Raises:
        CheckpointError: The file does not fit, or needs ``model`` to tell.
        OutputError: The target cannot be written, which is found out first.
        RequirementError: A .safetensors file is wanted without the package that writes it.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"{target} must end in .pth or .safetensors.")
    if target.suffix == ".safetensors":
        require_package("safetensors", str(target))
    check_writable(target, "The converted file")
    content = load_weights_only(source)
    weights = tensors_in(content, str(source), "any model")
    with torch.device("meta"):  # only names and shapes are needed
        module = MODELS.build(dict(model)) if model else _backbone_for(weights, source)
    state, report = prepare(module, content, source=str(source))
    names = [name for name in module.state_dict() if name in state]  # in the model's order
    facts = {"source": source.name, "source_sha256": sha256(Path(split_key(source)[0])), "network": report.target}
    meta = content.get("meta")
    classes = meta.get("CLASSES") if isinstance(meta, dict) else None
    tensors = {name: state[name].detach().clone().contiguous() for name in names}
    if target.suffix == ".pth":
        named = {"dataset_meta": {"classes": tuple(classes)}} if classes else {}
        write_bytes(target, saved({"state_dict": tensors, "meta": facts | named}))
    else:
        from safetensors.torch import save

        write_bytes(target, save(tensors, metadata=facts | ({"classes": "\n".join(classes)} if classes else {})))
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


# ---- what MMEngine writes; its backend puts a torn file under the final name where it is killed or the disk is full


def put(self: LocalBackend, obj: bytes, filepath: str | os.PathLike) -> None:
    """Write bytes; folders are made.

    Raises OutputError where a checkpoint cannot be written; an older file of the name is left as it was.
    """
    path = Path(filepath)
    is_checkpoint = path.suffix in CHECKPOINT_SUFFIXES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, flush=is_checkpoint) as file:
            file.write(obj)
    except OSError as error:
        if not is_checkpoint:
            raise
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise OutputError(
            f"The checkpoint {path} of {len(obj) / 1e6:,.1f} MB could not be written ({error.strerror or error}; "
            f"{free / 1e6:,.1f} MB are free there): earlier checkpoints are intact; make room, then go on with "
            "--resume."
        ) from error


def dump(self: Config, file: str | os.PathLike | None = None) -> str | None:
    """Write or return a config as MMEngine does; of its files only those with the ending .py bypass the backend."""
    if not str(file).endswith(".py"):
        return _mmengine_dump(self, file)
    LocalBackend().put_text(self.pretty_text, file)
    return None


def put_text(self: LocalBackend, obj: str, filepath: str | os.PathLike, encoding: str = "utf-8") -> None:
    """Write text; folders are made."""
    put(self, obj.encode(encoding), filepath)
