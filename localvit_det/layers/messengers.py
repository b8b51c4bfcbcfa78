"""Messengers: one more token for each window, which attends with it and trades channels with the neighbouring ones.

A map carries its messengers as a map of their own, one position for each window: (B, C, ⌈H/ws⌉, ⌈W/ws⌉) beside
(B, C, H, W). Windows without any real token do not exist, so none has a messenger.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .window import ceil_div, crop, pad_to_multiple, window_partition, window_reverse

WithMessengers = tuple[Tensor, Tensor]  # a map and its messengers


def tile_messengers(tokens: Tensor, side: int, size: tuple[int, int], batch: int) -> Tensor:
    """Lay one token for each place of a region over all windows.

    Args:
        tokens: Of shape (1, side², 1, C), row by row.
        side: Of a region, in windows.
        size: Rows and columns of windows.
        batch: Images.

    Returns:
        Messengers of shape (B, C, *size), channels-last.
    """
    region = tokens.view(side, side, -1)
    grid = region.repeat(ceil_div(size[0], side), ceil_div(size[1], side), 1)
    return _dense(crop(grid.expand(batch, -1, -1, -1).permute(0, 3, 1, 2), size))


def shuffle_messengers(messengers: Tensor, side: int) -> Tensor:
    """Let the messengers of each region of side×side windows trade channels: a transposition of token and group.

    The channels are cut into side² groups; group i of messenger j and group j of messenger i change places.

    Our reading, where a region hangs over the border (the paper and the official code have whole regions only): the
    same among its real windows. A group whose partner does not exist stays where it is, so nothing is lost, nothing
    comes from outside the map, and shuffling twice changes nothing, as in whole regions.

    Args:
        messengers: Of shape (B, C, hh, ww); side² divides C.
        side: Of a region, in windows.

    Returns:
        Messengers of the same shape, channels-last.
    """
    if side == 1:
        return messengers
    rows, columns = messengers.shape[-2:]
    padded = pad_to_multiple(messengers, side)
    groups = rearrange(  # i: place in the region; g: group of channels
        padded.permute(0, 2, 3, 1), "b (y i) (x j) (g c) -> b y x (i j) g c", i=side, j=side, g=side**2
    )
    traded = groups.transpose(3, 4)
    if padded is not messengers:
        missing = (0, padded.shape[3] - columns, 0, padded.shape[2] - rows)
        real = F.pad(messengers.new_ones(1, 1, rows, columns), missing)
        real = rearrange(real, "1 1 (y i) (x j) -> y x 1 (i j) 1", i=side, j=side).bool()  # y, x, 1, partner, 1
        traded = torch.where(real, traded, groups)
    grid = rearrange(traded, "b y x (i j) g c -> b (y i) (x j) (g c)", i=side, j=side)
    return _dense(crop(grid.permute(0, 3, 1, 2), (rows, columns)))


def join_windows(patches: Tensor, messengers: Tensor, window_size: int) -> Tensor:
    """Cut a map into windows, each led by its messenger.

    Args:
        patches: Map of shape (B, C, H, W).
        messengers: Of shape (B, C, hh, ww).
        window_size: Side of a window, in tokens.

    Returns:
        Tokens of shape (1, C, B·hh·ww, 1 + ws²), channels-last, zeros where a window hangs over the border.
    """
    tokens = window_partition(pad_to_multiple(patches, window_size), window_size, "local")[:, :, 0]  # 1, n, ws², C
    leaders = messengers.permute(0, 2, 3, 1).reshape(1, -1, 1, messengers.shape[1])  # 1, n, 1, C
    return torch.cat((leaders, tokens), dim=2).permute(0, 3, 1, 2)


def part_windows(tokens: Tensor, size: tuple[int, int], window_size: int) -> WithMessengers:
    """Undo :func:`join_windows`.

    Args:
        tokens: Of shape (1, C, B·hh·ww, 1 + ws²), channels-last.
        size: Height and width of the map, in tokens.
        window_size: Side of a window, in tokens.

    Returns:
        The map (B, C, H, W) and its messengers (B, C, hh, ww).
    """
    rows, columns = (ceil_div(side, window_size) for side in size)
    windows = tokens.permute(2, 0, 3, 1)  # n, 1, 1 + ws², C
    whole = (rows * window_size, columns * window_size)
    patches = crop(window_reverse(windows[:, :, 1:], whole, window_size, "local"), size)
    messengers = windows[:, 0, 0].reshape(-1, rows, columns, tokens.shape[1]).permute(0, 3, 1, 2)
    return patches, messengers


def add_messenger_keys(mask: Tensor | None) -> Tensor | None:
    """A mask of padded keys, with the messenger in front, which is always real: (…, ws²) -> (…, 1 + ws²)."""
    return None if mask is None else F.pad(mask, (1, 0))


def _dense(messengers: Tensor) -> Tensor:
    """A small copy: of a view, an exporter asks for each size whether it is a whole map."""
    return messengers.clone(memory_format=torch.channels_last)
