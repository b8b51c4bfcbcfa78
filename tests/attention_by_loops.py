"""Attention in windows from its definition, token by token."""

import torch

from localvit_det.layers import WindowAttention


def attention_by_loops(mixer: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Window attention from its definition: for each token, over the real tokens of its window."""
    ws, heads = mixer.window_size, mixer.num_heads
    batch, channels, height, width = x.shape
    hh, ww = -(-height // ws), -(-width // ws)
    qkv = mixer.qkv(x).view(batch, 3, heads, channels // heads, height, width)
    out = torch.zeros_like(qkv[:, 0])

    def place(y: int, x: int) -> tuple[tuple[int, int], tuple[int, int]]:
        if mixer.split == "local":
            return (y // ws, x // ws), (y % ws, x % ws)
        return (y % hh, x % ww), (y // hh, x // ww)

    tokens = [(y, x) for y in range(height) for x in range(width)]
    for y, x_ in tokens:
        window, inside = place(y, x_)
        mates = [t for t in tokens if place(*t)[0] == window]
        keys = torch.stack([qkv[:, 1, :, :, ky, kx] for ky, kx in mates], dim=-1)  # B, heads, d, keys
        values = torch.stack([qkv[:, 2, :, :, ky, kx] for ky, kx in mates], dim=-1)
        logits = (qkv[:, 0, :, :, y, x_, None] * keys).sum(2) * (channels // heads) ** -0.5
        if mixer.relative_position_bias_table is not None:
            rows = [
                (inside[0] - place(*m)[1][0] + ws - 1) * (2 * ws - 1) + inside[1] - place(*m)[1][1] + ws - 1
                for m in mates
            ]
            logits = logits + mixer.relative_position_bias_table[rows].T
        out[..., y, x_] = (logits.softmax(-1)[:, :, None] * values).sum(-1)
    out = out.reshape(batch, channels, height, width)
    if hasattr(mixer, "gaze"):
        value_map = qkv[:, 2].reshape(batch, channels, height, width)
        out = out + gaze_by_loops(value_map, mixer.gaze.weight, mixer.gaze.bias)
    return mixer.proj(out)


def gaze_by_loops(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A depth-wise convolution from its definition."""
    height, width = values.shape[-2:]
    k = weight.shape[-1]
    out = bias[None, :, None, None].expand_as(values).clone()
    for y in range(height):
        for x in range(width):
            for i in range(k):
                for j in range(k):
                    sy, sx = y + i - k // 2, x + j - k // 2
                    if 0 <= sy < height and 0 <= sx < width:
                        out[:, :, y, x] += weight[:, 0, i, j] * values[:, :, sy, sx]
    return out
