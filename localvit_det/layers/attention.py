"""Self-attention inside windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import attention
from .fusible import Fusible
from .norm import init_trunc_normal, trunc_normal_
from .window import Split, crop, cut_windows, key_padding_mask, merge_windows, pointwise, split_heads


class WindowAttention(Fusible):
    """Multi-head self-attention among the tokens of each window, for feature maps of any size.

    Sizes that windows do not divide are padded; padded tokens are masked out unless ``mask_padding`` says otherwise,
    so they never change what real tokens see.

    Args:
        channels: Channels in and out.
        num_heads: Attention heads; divides ``channels``.
        window_size: Side of a window, in tokens.
        split: Which tokens share a window.
        qkv_bias: Whether query, key and value have a bias.
        position_bias: Whether logits get a learned bias by relative position inside the window.
        mask_padding: Whether real tokens do not look at padding. It is zero before the projection, so its keys and
            values are the biases.
        attn_drop_rate: Dropout on the attention weights.
        drop_rate: Dropout on the output.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``.
    """

    relative_position_bias_table: nn.Parameter | None
    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        split: Split,
        qkv_bias: bool = False,
        position_bias: bool = True,
        mask_padding: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide {channels} channels.")
        self.num_heads = num_heads
        self.window_size = window_size
        self.split: Split = split
        self.mask_padding = mask_padding
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.proj_drop = nn.Dropout(drop_rate)
        if position_bias:
            self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
            self.register_buffer("relative_position_index", relative_position_index(window_size), persistent=False)
        else:
            self.relative_position_bias_table = None
        WindowAttention.reset_parameters(self)  # a subclass has not made its own yet

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        init_trunc_normal(self.qkv, self.proj)
        if self.relative_position_bias_table is not None:
            trunc_normal_(self.relative_position_bias_table)
        self._derive_index()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WindowAttention:
        super()._apply(fn, recurse)
        self._derive_index()  # after `to_empty()` it would be anything
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._derive_index()  # with assign=True it would stay on the meta device

    def _derive_index(self) -> None:
        """Make the index again, which no state dict has, where the table is."""
        if self.relative_position_bias_table is not None:
            self.relative_position_index = relative_position_index(
                self.window_size, self.relative_position_bias_table.device
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = self.project(x)  # each B·windows, heads, ws², d
        mixed = self.attend(query, key, value, x)  # B, C, H', W'
        # Projecting before cropping keeps the convolution's input dense.
        return self.proj_drop(crop(self.proj(mixed), x.shape[-2:]))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Make queries, keys and values of each window: (B, C, H, W) -> three times (B·windows, heads, ws², d)."""
        # Windows first: one copy of C channels instead of 3·C, and attention reads parts and heads in place.
        windows = cut_windows(x, self.window_size, self.split)  # 1, C, n, ws²
        tokens = pointwise(self.qkv, windows).squeeze(0).permute(1, 2, 0)  # 1, 3C, B·windows, ws² -> B·windows, ws², 3C
        return split_heads(tokens, self.num_heads, parts=3)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, x: Tensor) -> Tensor:
        """Attend, and return to a feature map: three times (B·windows, heads, ws², d) -> (B, C, H', W').

        The feature map ``x`` before padding, (B, C, H, W), gives the size.
        """
        mixed = attention(query, key, value, self.biases(x), self.attn_drop_rate if self.training else 0.0)
        return self.merge(mixed, x)

    def merge(self, windows: Tensor, x: Tensor) -> Tensor:
        """Merge windows to a feature map like ``x``, maybe padded: (B·windows, heads, ws², d) -> (B, C, H', W')."""
        return merge_windows(windows, x, self.window_size, self.split)

    def biases(self, x: Tensor) -> list[Tensor]:
        """Return what logits get: position bias, mask of padded keys: each (1 | B·windows, heads | 1, ws² | 1, ws²)."""
        mask = key_padding_mask(x, self.window_size, self.split) if self.mask_padding else None
        table = self.relative_position_bias_table
        positions = None if table is None else F.embedding(self.relative_position_index, table)  # ws², ws², heads
        bias = None if positions is None else positions.permute(2, 0, 1)[None]  # 1, heads, ws², ws²
        return [term for term in (bias, mask) if term is not None]


def relative_position_index(window_size: int, device: torch.device | None = None) -> Tensor:
    """Return which row of a relative position table each (query, key) pair of a window uses.

    Source: Swin, arXiv:2103.14030, section 3.2.

    Returns:
        Indices into a table of (2·ws-1)² rows, of shape (ws², ws²).
    """
    steps = torch.arange(window_size, device=device)
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    tokens = torch.stack((ys.flatten(), xs.flatten()))  # ws, ws -> 2, ws²
    offsets = tokens[:, :, None] - tokens[:, None, :] + window_size - 1  # 2, ws², ws²; each in [0, 2·ws-2]
    return offsets[0] * (2 * window_size - 1) + offsets[1]
