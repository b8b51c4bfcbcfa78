"""What an exported detector says about itself, so that its file is all that a user needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .exported_notes import is_exported, read_note


@dataclass(frozen=True)
class Info:
    """The note in an exported detector's file.

    Attributes:
        classes: Their names, in the order of the labels.
        config: Of the detector, as text; its test pipeline says how an image is read and resized.
        size: Height and width of the images that the program takes; None where it takes any multiple of `divisor`.
        divisor: Of both sides of an image.
        score: Objects never have lower scores.
        mask_threshold: From which probability on a pixel belongs to a mask.
        normalization: What the program does with the bytes of an image by itself, for those who read the note.
        int8: Whether products are of integers.
        versions: Of what wrote the file.
    """

    classes: tuple[str, ...]
    config: str
    size: tuple[int, int] | None
    divisor: int
    score: float
    mask_threshold: float = 0.5
    normalization: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    def input_of(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """An image (3, H, W), uint8, as the program takes it: padded, (1, 3, H', W'), and H and W, (2,).

        Raises:
            ConfigError: It is too large.
        """
        height, width = image.shape[1:]
        wanted = self.size or tuple(-(-side // self.divisor) * self.divisor for side in (height, width))
        if height > wanted[0] or width > wanted[1]:
            raise ConfigError(
                f"The exported detector takes images up to {wanted[0]}×{wanted[1]}, and one has {height}×{width}: let "  # noqa: RUF001
                "the test pipeline resize them, or export without --size."
            )
        return F.pad(image, (0, wanted[1] - width, 0, wanted[0] - height))[None], torch.tensor([height, width])

    def to_text(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))


def read_info(path: str | os.PathLike) -> Info:
    """Reads the note of a file.

    Raises:
        CheckpointError: It has none, or none of a detector.
    """
    text = read_note(Path(path))
    try:
        values = json.loads(text)
        return Info(
            **{
                **values,
                "classes": tuple(map(str, values["classes"])),
                "size": values["size"] and tuple(map(int, values["size"])),
                "divisor": max(1, int(values["divisor"])),
                "score": float(values["score"]),
                "mask_threshold": float(values["mask_threshold"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no exported detector of this package: export one by `localvit export MODEL --out FILE`."
        ) from error


__all__ = ["Info", "is_exported", "read_info"]
