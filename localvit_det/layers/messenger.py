"""Messengers: one more token for each window, laid out next to a feature map and among its windows.

A feature map carries its messengers as a feature map of their own, one position for each window:
(B, C, hh, ww) = (B, C, ⌈H/ws⌉, ⌈W/ws⌉) with (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..ops import Order, collect_rows, order_of, place_rows, transformed
from .window import ceil_div, crop, pad_to_multiple, reorders, shared_by_blocks, window_partition, window_reverse

WithMessengers = tuple[Tensor, Tensor]  # a feature map and its messengers


def tile_messengers(tokens: Tensor, side: int, size: tuple[int, int], batch: int) -> Tensor:
    """Lay one token for each place of a region of side×side windows over all windows.

    ``tokens``, (1, side², 1, C), come row by row; the messengers of ``batch`` images, (B, C, *size), are channels-last.
    """
    region = tokens.view(side, side, -1)  # side, side, C
    grid = region.repeat(ceil_div(size[0], side), ceil_div(size[1], side), 1)  # hh', ww', C
    return _dense(crop(grid.expand(batch, -1, -1, -1).permute(0, 3, 1, 2), size))


def shuffle_messengers(messengers: Tensor, side: int) -> Tensor:
    """Let the messengers of each region of side×side windows exchange channels: a transposition of token and group.

    The channels are cut into side² groups; group i of messenger j and group j of messenger i change places.
    (B, C, hh, ww) -> the same shape, channels-last.

    Our reading, where a region hangs over the border (the paper and the official code have whole regions only): the
    same among its real windows. A group whose partner does not exist stays where it is, so nothing is lost, nothing
    comes from outside the feature map, and shuffling twice changes nothing, as in whole regions.
    """
    if side == 1:
        return messengers
    if not reorders():
        return _exchanged(messengers, side)
    grid = messengers.permute(0, 2, 3, 1)  # B, hh, ww, C
    groups = grid.reshape(-1, grid.shape[3] // side**2)  # B·hh·ww·side², C/side²
    return place_rows(groups, shared_by_blocks(_exchange, messengers, side)).view(grid.shape).permute(0, 3, 1, 2)


def _exchanged(messengers: Tensor, side: int) -> Tensor:
    """Exchange by plain operators: (B, C, hh, ww) -> the same shape."""
    rows, columns = messengers.shape[-2:]
    padded = pad_to_multiple(messengers, side)  # B, C, hh', ww'
    grid = padded.permute(0, 2, 3, 1)  # B, hh', ww', C
    # (i j): place in the region; (k l): group of channels. They change roles.
    exchanged = rearrange(grid, "b (y i) (x j) (k l c) -> b (y k) (x l) (i j c)", i=side, j=side, k=side, l=side)
    if padded is messengers:
        return exchanged.permute(0, 3, 1, 2)
    real = torch.ones(1, 1, rows, columns, dtype=torch.bool, device=messengers.device)
    real = F.pad(real, (0, padded.shape[3] - columns, 0, padded.shape[2] - rows))  # 1, 1, hh', ww'
    # For each place and group, whether the partner is real: hh', ww', (i j), 1
    real = repeat(real, "1 1 (y i) (x j) -> (y k) (x l) (i j) 1", i=side, j=side, k=side, l=side)
    groups = (side**2, -1)
    grid = torch.where(real, exchanged.unflatten(3, groups), grid.unflatten(3, groups)).flatten(3)  # B, hh', ww', C
    return _dense(crop(grid.permute(0, 3, 1, 2), (rows, columns)))


def join_windows(patches: Tensor, messengers: Tensor, window_size: int) -> Tensor:
    """Cut a feature map into windows, each led by its messenger, zeros where a window hangs over the border.

    (B, C, H, W) and (B, C, hh, ww) -> (1, C, B·hh·ww, 1 + ws²), channels-last.
    """
    tokens = window_partition(pad_to_multiple(patches, window_size), window_size, "local")  # 1, C, n, ws²
    leaders = messengers.permute(0, 2, 3, 1).reshape(1, -1, 1, messengers.shape[1]).permute(0, 3, 1, 2)  # 1, C, n, 1
    return torch.cat((leaders, tokens), dim=3)


def split_windows(tokens: Tensor, size: Sequence[int], window_size: int) -> WithMessengers:
    """Undo :func:`join_windows`: (1, C, B·hh·ww, 1 + ws²) -> (B, C, H, W) of ``size``, and (B, C, hh, ww)."""
    rows, columns = (ceil_div(side, window_size) for side in size)
    leaders, windows = tokens.permute(2, 0, 3, 1).split((1, window_size**2), dim=2)  # n, 1, 1 | ws², C
    whole = (rows * window_size, columns * window_size)
    patches = crop(window_reverse(windows, whole, window_size, "local"), size)  # B, C, H, W
    messengers = leaders.reshape(-1, rows, columns, tokens.shape[1]).permute(0, 3, 1, 2)  # B, C, hh, ww
    return patches, messengers


def join_positions(x: WithMessengers) -> Tensor:
    """Lay all positions of an image after each other: (B, C, H, W) and (B, C, hh, ww) -> (B, C, 1, L), channels-last.

    L = H·W + hh·ww.
    """
    positions = torch.cat([part.permute(0, 2, 3, 1).flatten(1, 2) for part in x], dim=1)  # each B, H·W, C -> B, L, C
    return positions[:, None].permute(0, 3, 1, 2)


def split_positions(joined: Tensor, like: WithMessengers) -> WithMessengers:
    """Undo :func:`join_positions`, with the sizes of ``like``; views."""
    sizes = [part.shape[2:] for part in like]
    # Cut as rows, (B, L, C): so that the gradient is channels-last, too.
    parts = joined.permute(0, 2, 3, 1).squeeze(1).split([height * width for height, width in sizes], dim=1)
    patches, messengers = (part.unflatten(1, size).permute(0, 3, 1, 2) for part, size in zip(parts, sizes, strict=True))
    return patches, messengers


def cut_positions(joined: Tensor, like: WithMessengers, window_size: int) -> Tensor:
    """Do what :func:`join_windows` does with joined positions, in one copy.

    (B, C, 1, L) from :func:`join_positions`, of parts ``like`` these -> (1, C, B·hh·ww, 1 + ws²), channels-last.
    """
    if not reorders():
        return join_windows(*split_positions(joined, like), window_size)
    rows = joined.permute(0, 2, 3, 1).flatten(0, 2)  # B·L, C
    placed = place_rows(rows, shared_by_blocks(_order, like[0], window_size))  # B·hh·ww·(1 + ws²), C
    return placed.unflatten(0, (-1, 1 + window_size**2))[None].permute(0, 3, 1, 2)


def merge_positions(tokens: Tensor, like: WithMessengers, window_size: int) -> Tensor:
    """Undo :func:`cut_positions`: (1, C, B·hh·ww, 1 + ws²) -> (B, C, 1, L)."""
    if not reorders():
        return join_positions(split_windows(tokens, like[0].shape[2:], window_size))
    placed = tokens.squeeze(0).permute(1, 2, 0).flatten(0, 1)  # B·hh·ww·(1 + ws²), C
    rows = collect_rows(placed, shared_by_blocks(_order, like[0], window_size))  # B·L, C
    length = sum(part.shape[2] * part.shape[3] for part in like)
    return rows.unflatten(0, (-1, 1, length)).permute(0, 3, 1, 2)


def _order(patches: Tensor, window_size: int) -> Order:
    """Return how joined positions lie in windows with their messengers."""
    size, windows = patches.shape[2:], [ceil_div(side, window_size) for side in patches.shape[2:]]
    length = size.numel() + windows[0] * windows[1]
    numbers = torch.arange(1, len(patches) * length + 1, device=patches.device).view(-1, length)  # B, L
    patches, messengers = numbers.split((size.numel(), length - size.numel()), dim=1)  # B, H·W | B, hh·ww
    windowed = join_windows(patches.unflatten(1, (1, *size)), messengers.unflatten(1, (1, *windows)), window_size)
    return order_of(windowed, numbers.numel())


def _exchange(messengers: Tensor, side: int) -> Order:
    """Return the order of groups of channels, (B·hh·ww·side²), after :func:`shuffle_messengers`."""
    count = messengers[:, 0].numel() * side**2
    numbers = torch.arange(1, count + 1, device=messengers.device).view(-1, *messengers.shape[2:], side**2)
    return order_of(_exchanged(numbers.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1), count)  # B, hh, ww, side²


def _dense(messengers: Tensor) -> Tensor:
    """Return a small copy: for a view, an exporter asks for each size whether it is a whole feature map."""
    return messengers.clone(memory_format=torch.preserve_format if transformed() else torch.channels_last)
