"""Checkpoints that would run code, small backbones with their official files, and what refuses them."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS
from official_layouts import dwnet, msg, shuffle, twins
from torch import nn

from localvit_det.checkpoint.config_text import as_text
from localvit_det.checkpoint.safe_config import read_config
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError

NANO = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.0}
OFFICIAL = {
    "ShuffleTransformer": lambda **size: shuffle(window=7, **size),
    "DWNet": lambda **size: dwnet(**size),
    "DynamicDWNet": lambda **size: dwnet(kind="dynamic", **size),
    "IDynamicDWNet": lambda **size: dwnet(kind="inhomogeneous", **size),
    "MSGTransformer": lambda **size: msg(**size),
    "TwinsPCPVT": lambda **size: twins("TwinsPCPVT", **size),
    "TwinsSVT": lambda **size: twins("TwinsSVT", **size),
}
CONFIGS = {name: REPOSITORY / f"configs/mask_rcnn_{name}_nano_shapes.py" for name in ("dwnet", "gg", "shuffle")}


class Runs:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def refusal(load: Callable, *arguments, **options) -> str:
    """Return the sentence that a load ends with."""
    with pytest.raises(CheckpointError) as caught:
        load(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence


def saved(path: Path, content: object) -> Path:
    """Save a checkpoint and return its path."""
    torch.save(content, path)
    return path


def backbone(family: str, **options) -> nn.Module:
    """Build a small backbone of a family."""
    heads = "num_heads" in MODELS.get(family).accepted_arguments()
    arch = {key: value for key, value in NANO.items() if heads or key != "num_heads"}
    return MODELS.build({"type": family, "arch": arch, **options})


def from_file(family: str, file: object, **options) -> nn.Module:
    """Build a small backbone whose weights come from a file by its `init_cfg`; further keys of it may follow."""
    net = backbone(family, init_cfg={"type": "Pretrained", "checkpoint": str(file), **options})
    net.init_weights()
    return net


def detector(classes: int = 3) -> dict:
    """Return a DWNet nano detector as MMDetection 2 would have written it."""
    cfg = load_config(CONFIGS["dwnet"], {"classes": [f"class {i}" for i in range(classes)]})
    state = {k: v for k, v in MODELS.build(cfg.model).state_dict().items() if not k.startswith("backbone.")}
    state |= {f"backbone.{k}": v for k, v in dwnet(detection=True, window=5).items()}
    return {"state_dict": state, "meta": {"mmdet_version": "2.11.0"}, "optimizer": {}}


def run(tool: str, *arguments: object) -> None:
    """Run a tool in this process."""
    runpy.run_path(str(REPOSITORY / f"tools/{tool}.py"))["main"]([str(argument) for argument in arguments])


def config_refusal(text: object, trusted: bool = False) -> str:
    """Return the sentence that refuses a config inside a checkpoint."""
    sentence = refusal(read_config, {"meta": {"cfg": text}}, "file.pth", trusted)
    assert sentence.startswith("The config in file.pth is refused: ")
    assert len(sentence) < 400
    return sentence


def with_config(path: Path, values: dict | str, **meta: object) -> Path:
    """Save a checkpoint that carries a config."""
    text = values if isinstance(values, str) else as_text(values)
    meta = {"cfg": text, "dataset_meta": {"classes": ("a", "b")}, **meta}
    return saved(path, {"state_dict": {"w": torch.zeros(1)}, "meta": meta})
