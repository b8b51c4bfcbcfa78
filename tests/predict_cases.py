"""A detector that has learned nothing, images, and the command in this process."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from localvit.commands import predict
from localvit_det import Detector
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES

NAME = "mask_rcnn_shuffle_nano_shapes"
OPTIONS = ("--quiet", "--device", "cpu", "--score", 0, "--cfg-options", "model.test_cfg.rcnn.max_per_img=5")


def published(folder: Path, config: str | Path = NAME) -> Path:
    """Write a published file."""
    torch.manual_seed(3)
    cfg = load_config(config)
    path = folder / "nano-published.pth"
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": CLASSES}}
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": meta}, path)
    return path


def picture(seed: int = 0) -> np.ndarray:
    """Return noise of 64 x 64 pixels."""
    return np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)


def write_image(path: Path) -> None:
    """Write `picture` in the format of a file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), picture())[1].tobytes())


def write_video(path: Path, frames: int, codec: str = "MJPG") -> None:
    """Write frames of noise."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 64))
    for index in range(frames):
        writer.write(picture(index))
    writer.release()


_detectors: dict[str, Detector] = {}


def _detector(*arguments: object) -> Detector:
    """Return the same detector for the same arguments: making one takes longer than finding objects in a few images."""
    key = repr(arguments)
    if key not in _detectors:
        _detectors[key] = Detector(*arguments)
    return _detectors[key]


def run(*arguments: object, options: Sequence[object] = OPTIONS) -> int:
    """Run `localvit predict` and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "Detector", _detector)
        try:
            predict.main([*map(str, arguments), *map(str, options)])
        except SystemExit as stop:
            return stop.code
    return 0


def files_in(folder: Path) -> set[str]:
    """Return the files below a folder but the index of outputs."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".localvit_outputs")
    return {path.relative_to(folder).as_posix() for path in found}


def images_of(path: Path) -> list[str]:
    """Return the names of the images in a JSON of objects, of which each has five (see `OPTIONS`)."""
    content = json.loads(path.read_text())
    assert len(content["annotations"]) == 5 * len(content["images"])
    return [image["file_name"] for image in content["images"]]
