"""What a backbone sees: found out with gradients, so that the answer is the network's own, whatever it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError

# A block by the name of its class, as here, in MMDetection and in most libraries; its mixer by its name in the block.
_BLOCK = re.compile(r"(Block|Bottleneck|EncoderLayer)(V\d)?$")
_MIXERS = ("mixer", "attn")
_DRAWS = 3  # a ReLU may hide a token once


@dataclass(frozen=True)
class Seen:
    """Which tokens of a map one block lets some tokens see.

    Attributes:
        name: Of the module whose input and output were compared.
        tokens: Row and column of the tokens that look.
        masks: (tokens, H, W), bool: what each of them sees.
    """

    name: str
    tokens: Sequence[tuple[int, int]]
    masks: Tensor


def effective_fields(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """How much each pixel matters to the token in the middle of each map that a backbone returns.

    The mean over images of the absolute gradients of the token's summed channels with respect to the pixels, as in
    arXiv:1701.04128 and arXiv:2203.06717.

    Args:
        backbone: In eval mode.
        images: (N, 3, H, W).

    Returns:
        One map (H, W) for each of the backbone's, which sums to 1.
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
    """The side of the smallest square around the middle that holds a share of a field (H, W), in pixels."""
    middle = [size // 2 for size in field.shape]
    for half in range(1, max(field.shape)):
        top, left = (max(0, place - half) for place in middle)
        if field[top : middle[0] + half, left : middle[1] + half].sum() >= share:
            return 2 * half
    return max(field.shape)


def seen_tokens(backbone: nn.Module, image: Tensor, places: Sequence[tuple[float, float]]) -> list[Seen]:
    """What single tokens see through each mixer, or through each block whose mixer takes no map.

    Args:
        backbone: In eval mode; of any library, if its blocks are called …Block, Bottleneck or …EncoderLayer.
        image: (1, 3, H, W).
        places: Where the tokens lie, as shares of the height and width.

    Returns:
        In the order in which the image passes them.

    Raises:
        ConfigError: The backbone has no such block.
    """
    calls: list[tuple[str, nn.Module, tuple, dict]] = []
    hooks = []
    for name, block in backbone.named_modules():
        if _BLOCK.search(type(block).__name__):
            mixers = {f"{name}.{mixer}": getattr(block, mixer) for mixer in _MIXERS if hasattr(block, mixer)}
            for part, module in {name: block, **mixers}.items():
                hooks.append(module.register_forward_pre_hook(_keep(calls, part), with_kwargs=True))
    try:
        with torch.no_grad():
            backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    found = [seen for call in _chosen(calls) if (seen := _look(*call, places)) is not None]
    if not found:
        raise ConfigError(
            f"{type(backbone).__name__} has no blocks that are known by their names (…Block, Bottleneck, "
            "…EncoderLayer) and keep the size of their map: look at its receptive field instead."
        )
    return found


def _keep(calls: list[tuple[str, nn.Module, tuple, dict]], name: str) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append((name, module, args, kwargs))

    return hook


def _chosen(calls: Sequence[tuple[str, nn.Module, tuple, dict]]) -> Iterator[tuple[str, nn.Module, tuple, dict]]:
    """Mixers that take a map, and blocks without one."""
    mixed = {name.rpartition(".")[0] for name, _, args, kwargs in calls if _is_mixer(name) and _size(args, kwargs)}
    for call in calls:
        name, _, args, kwargs = call
        if name not in mixed and _size(args, kwargs):
            yield call


def _is_mixer(name: str) -> bool:
    return name.rpartition(".")[2] in _MIXERS


def _size(args: tuple, kwargs: dict) -> tuple[int, int] | None:
    """Height and width of the map that a module was given; a sequence of tokens comes with its own."""
    x = _first(args)
    if not isinstance(x, Tensor):
        return None
    if x.dim() == 4:
        return x.shape[-2], x.shape[-1]
    sizes = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, (tuple, list)) and len(value) == 2]
    fitting = [tuple(size) for size in sizes if x.dim() == 3 and size[0] * size[1] == x.shape[1]]
    return fitting[0] if fitting else None


def _first(args: tuple) -> Any:
    """The map, which may come with something beside it."""
    return args[0][0] if args and isinstance(args[0], tuple) and args[0] else (args[0] if args else None)


def _look(
    name: str, module: nn.Module, args: tuple, kwargs: dict, places: Sequence[tuple[float, float]]
) -> Seen | None:
    size = _size(args, kwargs)
    assert size is not None  # of what `_chosen` lets pass
    height, width = size
    given = _first(args).detach()
    tokens = [(min(int(y * height), height - 1), min(int(x * width), width - 1)) for y, x in places]
    masks = torch.zeros(len(tokens), height, width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for draw in range(_DRAWS):
        noise = torch.randn(given.shape, generator=generator).to(given) * given.std()
        x = (given + noise * bool(draw)).requires_grad_()
        first = (x, *args[0][1:]) if isinstance(args[0], tuple) else x
        with torch.enable_grad():
            out = module(first, *args[1:], **kwargs)
            out = out[0] if isinstance(out, tuple) else out
            if out.shape != x.shape:
                return None  # it steps down
            # A norm at the end lets the channels' plain sum be constant; this one is not.
            weights = torch.linspace(0.5, 1.5, x.shape[1] if x.dim() == 4 else x.shape[2])
            values = torch.einsum("c,bchw->bhw" if x.dim() == 4 else "c,bnc->bn", weights, out).reshape(height, width)
            for index, (row, column) in enumerate(tokens):
                (gradient,) = torch.autograd.grad(values[row, column], x, retain_graph=True)
                masks[index] |= _seen(gradient, height, width)
    return Seen(name, tokens, masks)


def _seen(gradient: Tensor, height: int, width: int) -> Tensor:
    """(1, C, H, W) or (1, H·W, C) -> (H, W): where it is not zero."""
    per_token = gradient[0].abs().sum(0 if gradient.dim() == 4 else 1)
    return per_token.reshape(height, width) > 0
