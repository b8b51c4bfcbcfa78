"""The detectors that stand side by side: ours as our tools run them, others as MMDetection runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from localvit_det.config import load_config
from localvit_det.errors import ConfigError, did_you_mean

_CONFIGS = Path(__file__).parents[2] / "configs"
_PREFIX, _SUFFIX = "mask_rcnn_", "_coco.py"
_OTHERS = ("swin", "pvt")  # backbones of MMDetection among our configs
_RESNET = "resnet50"
_WAYS = ("fused", "plain", "stock")


@dataclass(frozen=True)
class DetectorRow:
    """One detector of the comparison, and how it is run.

    Attributes:
        name: Of a config `mask_rcnn_NAME_coco.py`, `resnet50`, or the user's.
        way: 'fused', as our tools run it: replaced by its fused form, in a process that keeps its memory. 'plain':
            the modules as they are, in such a process, too. 'stock': as MMDetection's tools run it, the process left
            alone and RoIAlign from torchvision.
        config: File; empty for a named row.
        checkpoint: File; None for random weights.
    """

    name: str
    way: str
    config: str = ""
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        """The name, and the way where it is not what the name alone stands for."""
        return self.name if self.way == default_way(self.name) else f"{self.name} ({self.way})"

    def load(self, options: dict) -> Config:
        """Its config, complete, with random weights where no checkpoint is given."""
        named = "swin_t" if self.name == _RESNET else self.name
        cfg = load_config(self.config or _CONFIGS / f"{_PREFIX}{named}{_SUFFIX}", options)
        if self.name == _RESNET:
            cfg.model.backbone, cfg.model.neck.in_channels = _resnet50(), [256, 512, 1024, 2048]
        cfg.model.backbone.init_cfg = None
        if self.way == "stock" and cfg.model.get("roi_head", {}).get("mask_head"):
            cfg.model.roi_head.mask_head.type = "FCNMaskHead"
        cfg.load_from = self.checkpoint
        return cfg


@dataclass(frozen=True)
class DetectorOptions:
    """What all rows of a run share.

    Attributes:
        modes: 'evaluation', 'training'.
        images: The first so many of its validation images; None for all.
        workers: Data workers of an evaluation.
        size: Height and width of images in training.
        batch: Images in a training step.
        cfg_options: Of all configs, `data_root` among them.
    """

    modes: Sequence[str] = ("evaluation", "training")
    images: int | None = 8
    workers: int = 0
    fast_eval: bool = False
    size: tuple[int, int] = (512, 512)
    batch: int = 2
    dtypes: Sequence[str] = ("fp32",)
    device: str = "cpu"
    rounds: int = 5
    warmup: int = 1
    threads: int | None = None
    cfg_options: dict = field(default_factory=dict)


def named_detectors() -> list[str]:
    """All names that a row may have by itself."""
    names = (path.name[len(_PREFIX) : -len(_SUFFIX)] for path in sorted(_CONFIGS.glob(f"{_PREFIX}*{_SUFFIX}")))
    return [*(name for name in names if not name.endswith("_3x")), _RESNET]


def default_way(name: str) -> str:
    """How a row is run unless the user says so."""
    return "stock" if name == _RESNET or name.rpartition("_")[0] in _OTHERS else "fused"


def make_detector_rows(texts: Sequence[str]) -> list[DetectorRow]:
    """Turn `NAME[=CONFIG[,CHECKPOINT]][:WAY]` into rows.

    Raises:
        ConfigError: A name or a way is unknown, or a file is missing.
    """
    rows = []
    for text in texts:
        head, colon, way = text.rpartition(":")
        head, way = (head, way) if colon and "/" not in way else (text, "")
        name, _, files = head.partition("=")
        config, _, checkpoint = files.partition(",")
        if not config and name not in named_detectors():
            known = named_detectors()
            hint = did_you_mean(name, known)
            raise ConfigError(
                f"There is no detector {name}{hint}: choose from {', '.join(known)}, or give NAME=CONFIG."
            )
        if way and way not in _WAYS:
            raise ConfigError(f"{text}: a detector runs {', '.join(_WAYS)}, not {way}.")
        for file in filter(None, (config, checkpoint)):
            if not Path(file).is_file():
                raise ConfigError(f"{text}: there is no file {file}.")
        rows.append(DetectorRow(name, way or default_way(name), config, checkpoint or None))
    return rows


def _resnet50() -> dict:
    """The backbone of MMDetection's `mask-rcnn_r50_fpn`."""
    norm = {"type": "BN", "requires_grad": True}
    stages = {"num_stages": 4, "out_indices": (0, 1, 2, 3), "frozen_stages": 1}
    return {"type": "ResNet", "depth": 50, **stages, "norm_cfg": norm, "norm_eval": True, "style": "pytorch"}
