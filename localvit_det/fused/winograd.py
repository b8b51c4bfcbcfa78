"""3×3 convolutions with a quarter of the multiplications (Lavin & Gray, arXiv:1509.09308): F(4×4, 3×3) in fp32.

The feature map is cut into tiles of 4×4 outputs. Each is computed from the 6×6 inputs under it: a linear transform of
the tile, one product of matrices for each of the 36 positions in it, and a linear transform back. All three are matrix
products here; the transforms have so few rows that they run at the speed of memory. Errors are about four times those
of a direct fp32 convolution, 1.6e-6 of a feature map's norm where that makes 4e-7.

A tile's errors are of the size of its largest input, also in outputs that do not see that input. Tiles whose inputs
differ that much in size are therefore computed directly (:func:`uneven_tiles`), so that the error of every output stays
below 2e-5 of the norm of its kernel times the norm of the 3×3 inputs that it sees, as far as those are finite.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# Interpolation points 0, 1, -1, 2, -2, infinity: kernel, input and output transforms along one axis.
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
# The position at (1, 1) is the tile at point 1, which reaches all 16 outputs with weight 1: there a bias is added.
_CONSTANT = 7
# A band of tiles is worked on at once: 36 numbers a channel and tile, twice.
_TILES = 160
# How many times larger than what an output sees the largest input of its tile may be; in feature maps it is 1 to 3.
_UNEVEN = 16


@torch.no_grad()
def transform_weight(weight: Tensor) -> Tensor:
    """Transform kernels, which makes them four times as large: (C', C, 3, 3) -> (36, C, C')."""
    kernel = weight.new_tensor(_KERNEL, dtype=torch.float64)
    transformed = torch.einsum("ai,bj,ocij->abco", kernel, kernel, weight.double())
    return transformed.flatten(0, 1).to(weight.dtype).contiguous()


@torch.no_grad()
def uneven_tiles(x: Tensor) -> Tensor:
    """Return which tiles of (B, C, H, W) would get errors far beyond those of a direct convolution, (B, ⌈H/4⌉, ⌈W/4⌉).

    Those where the largest of the 6×6 inputs, by their norm over the channels, is more than 16 times the largest of the
    3×3 that some output sees, or not finite. This takes a fiftieth of the time of :func:`winograd_conv`.
    """
    size = torch.linalg.vector_norm(x.permute(0, 2, 3, 1), dim=3)  # B, H, W
    bottom, right = -size.shape[1] % 4, -size.shape[2] % 4
    largest = F.max_pool2d(F.pad(size, (1, right + 1, 1, bottom + 1)), 6, 4)
    # No output beyond the border counts.
    seen = F.pad(F.max_pool2d(size, 3, 1, 1), (0, right, 0, bottom), value=torch.inf)
    least = -F.max_pool2d(-seen, 4)
    return ~((largest <= _UNEVEN * least) & (largest < torch.inf))


@torch.no_grad()
def winograd_conv(
    x: Tensor, weight: Tensor, transformed: Tensor, bias: Tensor | None, uneven: Tensor, relu: bool = False
) -> Tensor:
    """Compute a 3×3 convolution, stride 1, padding 1, and the ReLU after it.

    Args:
        x: (B, C, H, W); read without a copy if channels-last.
        weight: (C', C, 3, 3).
        transformed: The same, from :func:`transform_weight`.
        bias: (C',).
        uneven: Tiles that are computed directly, from :func:`uneven_tiles`.
        relu: Whether to apply a ReLU.

    Returns:
        (B, C', H, W), channels-last in memory.
    """
    images, channels, height, width = x.shape
    outputs = len(weight)
    down, across = -(-height // 4), -(-width // 4)  # tiles
    at_once = min(images, max(1, _TILES // (down * across)))
    rows = min(down, max(1, _TILES // across))
    tiles = at_once * rows * across

    source = x.permute(0, 2, 3, 1)
    y = x.new_empty(images, height, width, outputs)
    padded = x.new_zeros(at_once, 4 * rows + 2, 4 * across + 2, channels)
    # Two workspaces: products overwrite the tiles, and outputs the transformed tiles.
    first, second = x.new_empty(2, 36 * tiles * max(channels, outputs))
    to_tiles, from_tiles = _transforms(x.dtype, x.device)
    some_uneven = bool(uneven.any())
    for start in range(0, images, at_once):
        some = slice(start, min(start + at_once, images))
        count = some.stop - some.start
        for row in range(0, down, rows):
            high = min(rows, down - row)
            size = count * high * across
            band = _padded_band(source[some], padded[:count, : 4 * high + 2], 4 * row - 1)
            tile = _front(first, (6, 6, count, high, across, channels)).copy_(_tiles(band, high, across))
            direct: tuple[Tensor, Tensor] | None = None  # which tiles, and their outputs 4, 4, n, C'
            if some_uneven:
                chosen = uneven[some, row : row + high].flatten().nonzero()[:, 0]
                patches = tile.view(6, 6, size, channels)[:, :, chosen].permute(2, 3, 0, 1)  # n, C, 6, 6
                direct = chosen, F.conv2d(patches, weight, bias).permute(2, 3, 0, 1)
            moved = torch.mm(to_tiles, tile.view(36, -1), out=_front(second, (36, size * channels)))
            product = _front(first, (36, size, outputs))
            torch.bmm(moved.view(36, size, channels), transformed, out=product)
            if bias is not None:
                product[_CONSTANT] += bias
            back = torch.mm(from_tiles, product.view(36, -1), out=_front(second, (16, size * outputs)))
            if direct is not None:
                back.view(4, 4, size, outputs)[:, :, direct[0]] = direct[1]
            back = back.view(4, 4, count, high, across, outputs).permute(2, 3, 0, 4, 1, 5)
            _untile(back, y[some, 4 * row : 4 * (row + high)], relu)
    return y.permute(0, 3, 1, 2)


def _padded_band(source: Tensor, band: Tensor, top: int) -> Tensor:
    """Copy rows of ``source`` (n, H, W, C) from ``top`` on into the inside of ``band``, zeros beyond the border."""
    height, width = source.shape[1:3]
    low, high = max(top, 0), min(top + band.shape[1], height)
    band[:, : low - top] = 0
    band[:, high - top :] = 0
    band[:, low - top : high - top, 1 : width + 1] = source[:, low:high]
    return band


def _tiles(band: Tensor, rows: int, columns: int) -> Tensor:
    """View all tiles of a padded band (n, H', W', C) as (6, 6, n, rows, columns, C)."""
    n, y, x, c = band.stride()
    return band.as_strided((6, 6, band.shape[0], rows, columns, band.shape[3]), (y, x, n, 4 * y, 4 * x, c))


def _untile(tiles: Tensor, y: Tensor, relu: bool) -> None:
    """Write ``tiles`` (n, rows, 4, columns, 4, C) into ``y`` (n, H, W, C), where the last ones may be cut off."""
    height, width = y.shape[1:3]
    for r, h, top in ((slice(0, height // 4), 4, 0), (slice(height // 4, None), height % 4, height // 4 * 4)):
        for c, w, left in ((slice(0, width // 4), 4, 0), (slice(width // 4, None), width % 4, width // 4 * 4)):
            part = tiles[:, r, :h, c, :w]
            if not part.numel():
                continue
            target = y[:, top : top + part.shape[1] * h, left : left + part.shape[3] * w]
            target = target.unflatten(2, (part.shape[3], w)).unflatten(1, (part.shape[1], h))
            torch.clamp(part, min=0, out=target) if relu else target.copy_(part)


def _front(workspace: Tensor, shape: tuple[int, ...]) -> Tensor:
    return workspace[: functools.reduce(lambda a, b: a * b, shape)].view(shape)


@functools.cache
def _transforms(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the transforms of both axes at once: (36, 36) of inputs, (16, 36) of outputs."""
    pair = []
    for matrix in (_INPUT, _OUTPUT):
        axis = torch.tensor(matrix, dtype=dtype, device=device)
        pair.append(torch.kron(axis, axis))
    return pair[0], pair[1]
