"""What a backbone sees, computed with gradients, so that the answer is the network's own, whatever it is made of."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..config import load_config
from ..errors import ConfigError, DataError
from ..predict import Detector
from ..predict.sources import Sources
from . import charts
from .page import Cell, Chart, Part, Picture, Section, Table

SHARES = (0.5, 0.95)
PLACES = ((0.5, 0.5), (0.2, 0.25), (0.8, 0.7))  # of the tokens that look: shares of height and width
_COLORS = ((14, 98, 217), (208, 127, 47), (99, 157, 42), (155, 71, 176))  # BGR
MOST = len(_COLORS)  # tokens in a picture
_CELL = 2  # pixels at least of a token in a picture
_STRIPE = 5  # pixels
# A block by the name of its class, as here, in MMDetection and in most libraries; its mixer by its name in the block.
_BLOCK = re.compile(r"(Block|Bottleneck|EncoderLayer)(V\d)?$")
_MIXERS = ("mixer", "attn")
_DRAWS = 3  # a ReLU may hide a token once


def load_backbone(
    model: str, options: Mapping[str, Any] | None = None, trusted: bool = False
) -> tuple[nn.Module, Config, bool]:
    """Return a backbone in eval mode.

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
    """Return a backbone, by its part of a config, in eval mode with random weights, the same each time."""
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


def open_image(path: str, longest: int, cfg: Config) -> np.ndarray:
    """Return an image file with no more than so many pixels on its longer side: H×W×3, uint8, BGR.

    Raises:
        DataError: It cannot be read, or exceeds the config's `max_pixels`.
    """
    image = next(_images([path], cfg))
    factor = longest / max(image.shape[:2])
    return image if factor >= 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def squares(images: Sequence[str], side: int, cfg: Config) -> Iterator[np.ndarray]:
    """Yield the middle of each image as a square of so many pixels on a side, so that fields can be averaged.

    In a row of several a broken one is named and left out.

    Raises:
        DataError: There is none that can be read.
    """
    for image in _images(images, cfg):
        height, width = image.shape[:2]
        half = min(height, width) // 2
        square = image[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
        yield cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def _images(sources: Sequence[str], cfg: Config) -> Iterator[np.ndarray]:
    count = 0
    for frame in Sources(sources, max_pixels=cfg.get("max_pixels"), pixel_range=cfg.get("pixel_range")):
        yield frame.image
        count += 1
    if not count:
        raise DataError(f"None of the images in {', '.join(sources)} can be read: name others.")


def prepared(image: np.ndarray, cfg: Config) -> Tensor:
    """Return an image as the config's model takes it: (1, 3, H, W)."""
    settings = (cfg.get("model") or {}).get("data_preprocessor") or {}
    mean, std = (np.array(settings.get(key) or default, np.float32) for key, default in (("mean", 0), ("std", 1)))
    pixels = image[..., ::-1] if settings.get("bgr_to_rgb", True) else image
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]  # H,W,3 -> 1,3,H,W


# ---- receptive fields


def effective_fields(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Return how much each pixel matters to the token in the middle of each feature map of a backbone in eval mode.

    The mean over images, (N, 3, H, W), of the absolute gradients of the token's summed channels with respect to the
    pixels, as in arXiv:1701.04128 and arXiv:2203.06717: one map (H, W) for each of the backbone's, which sums to 1.
    """
    totals: list[Tensor] = []
    for image in images.split(1):
        pixels = image.clone().requires_grad_()
        maps = backbone(pixels)
        for level, out in enumerate(maps):
            middle = out[0, :, out.shape[2] // 2, out.shape[3] // 2].relu().sum()
            (gradient,) = torch.autograd.grad(middle, pixels, retain_graph=level + 1 < len(maps))
            field = gradient[0].abs().sum(0)  # 3, H, W -> H, W
            if len(totals) == level:
                totals.append(torch.zeros_like(field))
            totals[level] += field
    return [field / field.sum().clamp_min(1e-30) for field in totals]


def side_that_holds(field: Tensor, share: float) -> int:
    """Return the side of the smallest square around the middle that holds a share of a field (H, W), in pixels."""
    middle = [size // 2 for size in field.shape]
    for half in range(1, max(field.shape)):
        top, left = (max(0, place - half) for place in middle)
        if field[top : middle[0] + half, left : middle[1] + half].sum() >= share:
            return 2 * half
    return max(field.shape)


def field_sections(backbone: nn.Module, images: Tensor, trained: bool) -> list[Section]:
    """Return the effective receptive fields of a backbone in eval mode on images, (N, 3, H, W)."""
    fields = effective_fields(backbone, images)
    height, width = images.shape[-2:]
    rows: list[dict[str, Cell]] = []
    parts: list[Part] = []
    for level, field in enumerate(fields):
        sides = [side_that_holds(field, share) for share in SHARES]
        row: dict[str, Cell] = {"map": f"map {level}"}
        row |= {f"side that holds {share:.0%}, pixels": side for share, side in zip(SHARES, sides, strict=True)}
        rows.append(row | {"share of the pixels that matter at all": float((field > 0).float().mean())})
        caption = f"Map {level}: half of the field in a square of {sides[0]} pixels, 95% in one of {sides[1]}."
        parts.append(Chart(f"field_{level}", charts.heat(field.numpy()), caption))
    text = (
        f"How much each of the {height} x {width} pixels matters to the token in the middle of each map: absolute "
        f"gradients, the mean over {len(images)} inputs, with {'trained' if trained else 'random'} weights. "
        "Shades are the fourth root of the share, so that the faint parts can be seen."
    )
    return [Section("Effective receptive field", [text, *parts, Table.of_rows("fields", rows, digits=2)])]


# ---- tokens


@dataclass(frozen=True)
class Seen:
    """Which tokens of a feature map one block lets some tokens see."""

    name: str  # of the module whose input and output were compared
    tokens: Sequence[tuple[int, int]]  # row and column of the tokens that look
    masks: Tensor  # (tokens, H, W), bool: what each of them sees


def seen_tokens(backbone: nn.Module, image: Tensor, places: Sequence[tuple[float, float]]) -> list[Seen]:
    """Return what single tokens see through each mixer, or through each block whose mixer takes no feature map.

    Args:
        backbone: In eval mode; of any library, if its blocks are called …Block, Bottleneck or …EncoderLayer.
        image: (1, 3, H, W).
        places: Where the tokens lie, as shares of the height and width.

    Returns:
        In the order in which the image passes them.

    Raises:
        ConfigError: The backbone has no such block.
    """
    calls: list[_Call] = []
    hooks = []
    for name, block in backbone.named_modules():
        if _BLOCK.search(type(block).__name__):
            mixers = {f"{name}.{mixer}": getattr(block, mixer) for mixer in _MIXERS if hasattr(block, mixer)}
            for part, module in {name: block, **mixers}.items():
                keep = partial(_keep, calls, part)
                hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        with torch.no_grad():
            backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    calls = [call for call in calls if call.size is not None]
    # Of a block whose mixer takes its feature map, and not windows of it, the mixer alone.
    blocks = {call.name: call.size for call in calls}
    calls = [call for call in calls if blocks.get(call.name.rpartition(".")[0], call.size) == call.size]
    mixed = {block for block, _, part in (call.name.rpartition(".") for call in calls) if part in _MIXERS}
    looked = (_look(call, places) for call in calls if call.name not in mixed)
    found = [seen for seen in looked if seen is not None]
    if not found:
        raise ConfigError(
            f"{type(backbone).__name__} has no blocks that are known by their names (…Block, Bottleneck, "
            "…EncoderLayer) and keep the size of their map: look at its receptive field instead."
        )
    return found


class _Call(NamedTuple):
    """One call of a module in a forward pass."""

    name: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]

    @property
    def features(self) -> Any:
        """The feature map, or the sequence of its tokens; some modules take it in a tuple."""
        first = self.args[0] if self.args else None
        return first[0] if isinstance(first, tuple) and first else first

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the feature map; a sequence of tokens comes with its own."""
        x = self.features
        if not isinstance(x, Tensor):
            return None
        if x.dim() == 4:
            return x.shape[-2], x.shape[-1]
        others = (*self.args[1:], *self.kwargs.values())
        sizes = (tuple(value) for value in others if isinstance(value, (tuple, list)) and len(value) == 2)
        return next((size for size in sizes if x.dim() == 3 and size[0] * size[1] == x.shape[1]), None)


def _keep(calls: list[_Call], name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    calls.append(_Call(name, module, args, kwargs))


def _look(call: _Call, places: Sequence[tuple[float, float]]) -> Seen | None:
    """Return what tokens see through a module, None for one that downsamples."""
    assert call.size is not None
    height, width = call.size
    given = call.features.detach()
    is_map = given.dim() == 4  # else (1, H·W, C)
    tokens = [(min(int(y * height), height - 1), min(int(x * width), width - 1)) for y, x in places]
    masks = torch.zeros(len(tokens), height, width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for draw in range(_DRAWS):
        noise = torch.randn(given.shape, generator=generator).to(given) * given.std()
        x = (given + noise * bool(draw)).requires_grad_()
        first = (x, *call.args[0][1:]) if isinstance(call.args[0], tuple) else x
        with torch.enable_grad():
            out = call.module(first, *call.args[1:], **call.kwargs)
            out = out[0] if isinstance(out, tuple) else out
            if out.shape != x.shape:
                return None
            # A norm at the end lets the channels' plain sum be constant; this one is not.
            weights = torch.linspace(0.5, 1.5, x.shape[1 if is_map else 2])
            values = torch.einsum("c,bchw->bhw" if is_map else "c,bnc->bn", weights, out).reshape(height, width)
            for index, (row, column) in enumerate(tokens):
                (gradient,) = torch.autograd.grad(values[row, column], x, retain_graph=True)
                masks[index] |= gradient[0].abs().sum(0 if is_map else 1).reshape(height, width) > 0
    return Seen(call.name, tokens, masks)


def window_sections(
    backbone: nn.Module, image: np.ndarray, cfg: Config, places: Sequence[tuple[float, float]] = PLACES
) -> list[Section]:
    """Return what tokens of an image, H×W×3, uint8, BGR, see through each kind of block of a backbone in eval mode.

    The tokens lie at `places`, shares of the height and width.
    """
    sections: dict[tuple[int, int], Section] = {}
    kinds: dict[tuple[int, int], list[Tensor]] = {}
    for seen in seen_tokens(backbone, prepared(image, cfg), places):
        height, width = seen.masks.shape[-2:]
        known = kinds.setdefault((height, width), [])
        if any(torch.equal(masks, seen.masks) for masks in known):
            continue
        known.append(seen.masks)
        section = sections.setdefault((height, width), Section(f"Map of {height} x {width} tokens"))
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
    """Draw what tokens see over a faded image, both H×W×3, uint8, BGR; large enough that single tokens can be seen."""
    rows, columns = seen.masks.shape[-2:]
    factor = max(1, -(-_CELL * max(rows, columns) // max(image.shape[:2])), -(-480 // max(image.shape[:2])))
    height, width = (side * factor for side in image.shape[:2])
    pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    gray = pixels.mean(2, keepdims=True)
    picture = 0.45 * (0.5 * gray + 0.5 * pixels) + 0.55 * 235
    masks = seen.masks.numpy()
    # What several tokens see has stripes in the colors of all of them.
    stripe = np.add.outer(np.arange(height), np.arange(width)) // _STRIPE
    places = _enlarged(masks.cumsum(0) - 1, (width, height))
    turn = stripe % np.maximum(_enlarged(masks.sum(0, keepdims=True), (width, height))[0], 1)
    for mask, place, color in zip(_enlarged(masks, (width, height)), places, _COLORS, strict=False):
        mine = (mask > 0) & (place == turn)
        picture[mine] = 0.4 * gray[mine] + 0.6 * np.array(color, np.float32)
    picture = picture.clip(0, 255).astype(np.uint8)
    for (row, column), color in zip(seen.tokens, _COLORS, strict=False):
        center = round((column + 0.5) * width / columns), round((row + 0.5) * height / rows)
        radius = min(max(6, round(0.9 * width / columns)), 14)
        for tone, thickness in (((255, 255, 255), 6), (color, 3)):
            cv2.circle(picture, center, radius, tone, thickness, cv2.LINE_AA)
    return picture


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return maps of tokens (N, h, w) as pixels (N, H, W) of a picture, for a size (W, H)."""
    return np.stack([cv2.resize(one.astype(np.int32), size, interpolation=cv2.INTER_NEAREST) for one in maps])
