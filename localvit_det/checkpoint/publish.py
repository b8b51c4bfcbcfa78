"""Trained detectors as one file: weights, config, classes, versions and metrics, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import torch
from mmengine.logging import print_log

from ..errors import CheckpointError
from ..files import check_writable_folder, write_bytes
from .allowed import metainfo_of
from .embedded_config import as_text, read_config, to_json
from .layouts import weights_in
from .read import load_weights_only

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt")


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
        checkpoint: What MMEngine saved in a training.
        out_dir: Where the file goes; beside ``checkpoint`` by default.
        name: Start of the file's name; the config's name or the checkpoint's by default.
        trusted: Keep the whole config, with its data, hooks, imports and types of others.

    Returns:
        The file.

    Raises:
        CheckpointError: The file cannot be read, has no weights, config or classes, or its config is no plain data.
        OutputError: The folder cannot be written, which is found out first.
    """
    path = Path(checkpoint)
    folder = Path(out_dir or path.parent)
    if path.is_file():
        check_writable_folder(folder, "--out-dir" if out_dir else "the checkpoint's folder")
    content = load_weights_only(path)
    weights = weights_in(content)
    if weights is None:
        raise CheckpointError(f"{path} holds no weights: give a checkpoint that was saved in a training.")
    meta = content["meta"] if isinstance(content.get("meta"), dict) else {}
    dataset_meta = metainfo_of(meta.get("dataset_meta"))
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
    # Into memory, not under a name: a file's name would become part of its content.
    file = io.BytesIO()
    torch.save(content, file)
    path = folder / f"{stem}-{hashlib.sha256(file.getbuffer()).hexdigest()[:8]}.pth"
    write_bytes(path, file.getbuffer())
    return path


def measured_metrics(work_dir: Path, meta: Mapping[str, Any]) -> dict[str, float]:
    """What the training logged in its validation after the checkpoint's epoch (or iteration).

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
    """Of everything that the numbers may depend on."""
    from .. import __version__

    packages = {"torch": torch, "mmdet": mmdet, "mmengine": mmengine, "mmcv": mmcv}
    found = {name: str(package.__version__) for name, package in packages.items()}
    return {"localvit_det": __version__, "python": platform.python_version(), **found}
