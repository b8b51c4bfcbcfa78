"""A config's test pipeline for single images, as predictions and exported programs take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import Compose

from ..errors import ConfigError
from .parts import find_datasets

SCORE = 0.3  # objects below are not worth showing


def image_pipeline(cfg: Config, size: tuple[int, int] | None = None) -> Compose:
    """The steps of the config's test pipeline between reading an image and the model.

    Args:
        size: Height and width inside which images have to fit; by default they get the config's size.
    """
    dataset = next((one for _, one in find_datasets(cfg, "test")), None)
    steps = (dataset or {}).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise ConfigError("The config has no test pipeline: name a config with a test_dataloader.")
    kinds = ("LoadImageFrom", "LoadAnnotations", "LoadPanoptic")
    steps = [step for step in steps if not str(step["type"]).rpartition(".")[2].startswith(kinds)]
    return Compose(fitting(steps, size))


def prepare(pipeline: Compose, image: np.ndarray, source: str = "") -> dict[str, Any]:
    """An image as `test_step` takes it: (3, H, W), uint8, under 'inputs', and its sample under 'data_samples'."""
    size = image.shape[:2]
    return pipeline({"img": image, "img_path": source, "img_id": 0, "img_shape": size, "ori_shape": size})


@TRANSFORMS.register_module()
class FitInside(Resize):
    """Resizes an image so that it just fits inside a fixed size, whatever its shape.

    Args:
        size: Height and width, in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(scale=size[::-1], keep_ratio=True)
        self.size = tuple(size)

    def _resize_img(self, results: dict) -> None:
        """Takes the scale from the image: MMCV's own fits its longer side to the longer one, lying or standing."""
        height, width = results["img"].shape[:2]
        factor = min(self.size[0] / height, self.size[1] / width)
        new = min(int(width * factor + 0.5), self.size[1]), min(int(height * factor + 0.5), self.size[0])
        image, x, y = mmcv.imresize(results["img"], new, return_scale=True, backend=self.backend)
        results.update(img=image, img_shape=image.shape[:2], scale_factor=(x, y), keep_ratio=True)


def fitting(pipeline: Sequence[dict], size: tuple[int, int] | None) -> list[dict]:
    """A test pipeline whose images a program of a fixed size takes; as it is where any size is taken.

    Raises:
        ConfigError: Nothing in it resizes.
    """
    if size is None:
        return list(pipeline)
    kinds = [str(step["type"]).rpartition(".")[2] for step in pipeline]
    if "Resize" not in kinds:
        raise ConfigError(
            "The test pipeline has no Resize, which a detector of a fixed size needs: export without --size."
        )
    place = kinds.index("Resize")
    return [*pipeline[:place], {"type": "FitInside", "size": tuple(size)}, *pipeline[place + 1 :]]
