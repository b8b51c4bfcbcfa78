"""Sections about a backbone: what it sees of an image."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..config import load_config
from ..datasets.annotations import MAX_PIXELS
from ..datasets.images import BrokenImageError, decode, pixel_range_of, read_file
from ..errors import ConfigError, DataError
from ..predict import Detector
from . import charts
from .networks import Seen, effective_fields, seen_tokens, side_that_holds
from .page import Cell, Chart, Picture, Section, Table

SHARES = (0.5, 0.95)
PLACES = ((0.5, 0.5), (0.2, 0.25), (0.8, 0.7))  # of the tokens that look: shares of height and width
_COLORS = ((14, 98, 217), (208, 127, 47), (99, 157, 42), (155, 71, 176))  # BGR
MOST = len(_COLORS)  # tokens in a picture
_CELL = 2  # pixels at least of a token in a picture


def load_backbone(
    model: str, options: Mapping[str, Any] | None = None, trusted: bool = False
) -> tuple[nn.Module, Config, bool]:
    """A backbone in eval mode.

    Args:
        model: A checkpoint or a work dir, or a config, whose backbone gets random weights.
        options: Changes of the config, by dotted keys.
        trusted: As of `Detector`.

    Returns:
        The backbone, the config, and whether its weights are trained.

    Raises:
        UserError: Something is missing, broken, or does not fit.
    """
    if os.path.isdir(model) or str(model).endswith((".pth", ".pt")):
        detector = Detector(model, device="cpu", fuse=False, options=options, trusted=trusted)
        if not hasattr(detector.model, "backbone"):
            raise ConfigError(f"The model in {model} has no backbone to look at.")
        return detector.model.get_submodule("backbone"), detector.config, True
    cfg = load_config(model, dict(options or {}), data=False)
    backbone = (cfg.get("model") or {}).get("backbone")
    if not backbone:
        raise ConfigError(f"The model of {model} has no backbone to look at: name a detector's config.")
    return random_backbone(backbone), cfg, False


def random_backbone(cfg: Mapping[str, Any]) -> nn.Module:
    """A backbone in eval mode with random weights, the same each time.

    Args:
        cfg: Its part of a config.
    """
    torch.manual_seed(0)
    backbone = MODELS.build({**cfg, "init_cfg": None})
    if hasattr(backbone, "init_weights"):
        MMLogger.get_current_instance().setLevel(logging.WARNING)  # else each weight is named
        backbone.init_weights()
    for parameter in backbone.parameters():
        if not parameter.any():  # some begin branches with zeros, through which no gradient would come
            nn.init.normal_(parameter, std=0.1)
    backbone.eval()  # MMDetection's return nothing from it
    return backbone


def open_image(path: str | os.PathLike, longest: int, cfg: Config) -> np.ndarray:
    """An image file with no more than so many pixels on its longer side: H×W×3, uint8, BGR.

    Args:
        path: Of the file.
        longest: Pixels.
        cfg: A config, whose `max_pixels` and `pixel_range` hold.

    Raises:
        DataError: It cannot be read.
    """
    try:
        limit = cfg.get("max_pixels", MAX_PIXELS)
        image = decode(read_file(path, limit), limit=limit, pixel_range=pixel_range_of(cfg.get("pixel_range")))
    except BrokenImageError as error:
        raise DataError(f"The image {path} {error}.") from error
    factor = longest / max(image.shape[:2])
    return image if factor >= 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def open_square(path: str | os.PathLike, side: int, cfg: Config) -> np.ndarray:
    """The middle of an image file, as a square with so many pixels on a side: fields of images can then be averaged.

    Args:
        path: Of the file.
        side: Pixels.
        cfg: As of `open_image`.

    Raises:
        DataError: It cannot be read.
    """
    image = open_image(path, 10**9, cfg)
    height, width = image.shape[:2]
    half = min(height, width) // 2
    square = image[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def prepared(image: np.ndarray, cfg: Config) -> Tensor:
    """An image as the config's model wants it: (1, 3, H, W)."""
    settings = (cfg.get("model") or {}).get("data_preprocessor") or {}
    mean, std = (np.array(settings.get(key) or default, np.float32) for key, default in (("mean", 0), ("std", 1)))
    pixels = image[..., ::-1] if settings.get("bgr_to_rgb", True) else image
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]  # H,W,3 -> 1,3,H,W


def field_sections(backbone: nn.Module, images: Tensor, trained: bool) -> list[Section]:
    """The effective receptive fields of a backbone's maps.

    Args:
        backbone: In eval mode.
        images: (N, 3, H, W).
        trained: Whether its weights are trained, for the text.
    """
    fields = effective_fields(backbone, images)
    height, width = images.shape[-2:]
    rows: list[list[Cell]] = []
    parts = []
    for level, field in enumerate(fields):
        sides = [side_that_holds(field, share) for share in SHARES]
        touched = float((field > 0).float().mean())
        rows.append([f"map {level}", *sides, touched])
        caption = f"Map {level}: half of the field in a square of {sides[0]} pixels, 95% in one of {sides[1]}."
        parts.append(Chart(f"field_{level}", charts.heat(field.numpy()), caption))
    text = (
        f"How much each of the {height} x {width} pixels matters to the token in the middle of each map: absolute "
        f"gradients, the mean over {len(images)} inputs, with {'trained' if trained else 'random'} weights. "
        "Shades are the fourth root of the share, so that the faint parts can be seen."
    )
    head = [
        "map",
        *(f"side that holds {share:.0%}, pixels" for share in SHARES),
        "share of the pixels that matter at all",
    ]
    return [Section("Effective receptive field", [text, *parts, Table("fields", head, rows, digits=2)])]


def window_sections(
    backbone: nn.Module, image: np.ndarray, cfg: Config, places: Sequence[tuple[float, float]] = PLACES
) -> list[Section]:
    """What tokens of an image see through each sort of block.

    Args:
        backbone: In eval mode.
        image: H×W×3, uint8, BGR.
        cfg: The config, for the image's normalisation.
        places: Where the tokens lie, as shares of the height and width.
    """
    sections: dict[tuple[int, int], Section] = {}
    kinds: dict[tuple[int, int], list[Seen]] = {}
    for seen in seen_tokens(backbone, prepared(image, cfg), places):
        height, width = seen.masks.shape[-2:]
        size = height, width
        same = [one for one in kinds.setdefault(size, []) if torch.equal(one.masks, seen.masks)]
        if same:
            continue
        kinds[size].append(seen)
        title = f"Map of {height} x {width} tokens"
        section = sections.setdefault(size, Section(title))
        counts = ", ".join(str(int(mask.sum())) for mask in seen.masks)
        caption = f"{seen.name}: the marked tokens see {counts} of {height * width} tokens."
        section.parts.append(Picture(f"windows_{seen.name.replace('.', '_')}", draw_seen(image, seen), caption))
    first = next(iter(sections.values()))
    first.parts.insert(
        0,
        "Each color is what one token, in the ring, sees through one mixer (or block): all tokens from which a "
        "gradient reaches it. Blocks of a stage that let them see the same are shown once.",
    )
    return list(sections.values())


def draw_seen(image: np.ndarray, seen: Seen) -> np.ndarray:
    """Draws what tokens see over a faded image.

    Args:
        image: H×W×3, uint8, BGR.
        seen: Masks over a map of the image.

    Returns:
        The picture, uint8, BGR; large enough that single tokens can be seen.
    """
    rows, columns = seen.masks.shape[-2:]
    factor = max(1, -(-_CELL * max(rows, columns) // max(image.shape[:2])), -(-480 // max(image.shape[:2])))
    height, width = (side * factor for side in image.shape[:2])
    pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    gray = pixels.mean(2, keepdims=True)
    picture = 0.45 * (0.5 * gray + 0.5 * pixels) + 0.55 * 235
    for mask, color in zip(seen.masks.numpy(), _COLORS, strict=False):
        large = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        picture[large] = 0.4 * gray[large] + 0.6 * np.array(color, np.float32)
    picture = picture.clip(0, 255).astype(np.uint8)
    for (row, column), color in zip(seen.tokens, _COLORS, strict=False):
        center = round((column + 0.5) * width / columns), round((row + 0.5) * height / rows)
        radius = min(max(6, round(0.9 * width / columns)), 14)
        for tone, thickness in (((255, 255, 255), 6), (color, 3)):
            cv2.circle(picture, center, radius, tone, thickness, cv2.LINE_AA)
    return picture
