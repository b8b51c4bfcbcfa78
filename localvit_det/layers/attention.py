"""Self-attention inside windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from mmengine.model import trunc_normal_init
from torch import Tensor, nn

from .bands import Reach
from .mixer import Mixer
from .modes import cpu_inference
from .window import Split, merge_windows, pad_to_multiple, padding_bias, split_windows


def relative_position_index(window_size: int) -> Tensor:
    """Which row of a relative position table each (query, key) pair of a window uses.

    Source: Swin, arXiv:2103.14030, section 3.2.

    Returns:
        Indices into a table of (2·ws-1)² rows, of shape (ws², ws²).
    """
    steps = torch.arange(window_size)
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    tokens = torch.stack((ys.flatten(), xs.flatten()))  # 2, ws²
    offsets = tokens[:, :, None] - tokens[:, None, :] + window_size - 1  # 2, ws², ws²; each in [0, 2·ws-2]
    return offsets[0] * (2 * window_size - 1) + offsets[1]


class WindowAttention(Mixer):
    """Multi-head self-attention among the tokens of each window, for maps of any size.

    Sizes that windows do not divide are padded; padded tokens are masked out, so they never change what real
    tokens see.

    Args:
        channels: Channels in and out.
        num_heads: Attention heads; divides ``channels``.
        window_size: Side of a window, in tokens.
        split: Which tokens share a window.
        qkv_bias: Whether query, key and value have a bias.
        position_bias: Whether logits get a learned bias by relative position inside the window.
        attn_drop_rate: Dropout on the attention weights.
        drop_rate: Dropout on the output.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        split: Split,
        qkv_bias: bool = False,
        position_bias: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide {channels} channels.")
        self.num_heads = num_heads
        self.window_size = window_size
        self.split: Split = split
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.proj_drop = nn.Dropout(drop_rate)
        for layer in (self.qkv, self.proj):
            trunc_normal_init(layer, std=0.02)
        if position_bias:
            table = torch.empty((2 * window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            index = relative_position_index(window_size)
            self.register_buffer("relative_position_index", index, persistent=False)
        else:
            self.relative_position_bias_table = None

    @property
    def reach(self) -> Reach:
        """Which rows are mixed."""
        return self.window_size, self.split

    def gather(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.window_size)  # B, C, H', W'
        query, key, value = self.project(padded, self.qkv, parts=3)
        mixed = self.aggregate(query, key, value, self.logit_bias(x), padded.shape[-2:])  # B, C, H', W'
        # Projecting before cropping keeps the convolution's input dense.
        return self.proj_drop(self.proj(mixed)[..., :height, :width])

    def project(self, x: Tensor, layer: Callable[[Tensor], Tensor], parts: int) -> tuple[Tensor, ...]:
        """Windows of a projected map: (B, C, H', W') -> ``parts`` times (B·windows, heads, ws², d).

        Args:
            x: The map, padded to whole windows.
            layer: A projection of each position, (B, C, any, any) -> (B, parts·C, any, any).
            parts: What the projection makes of each position, for example query, key and value.
        """
        if not _reads_strides(x):
            return split_windows(layer(x), self.window_size, self.split, self.num_heads, parts).unbind()
        # Windows first: one copy of C channels instead of parts·C, and attention reads parts and heads in place.
        tokens = split_windows(x, self.window_size, self.split)[:, :, 0]  # 1, B·windows, ws², C
        y = layer(tokens.permute(0, 3, 1, 2))  # -> 1, C, B·windows, ws² -> 1, parts·C, B·windows, ws²
        return rearrange(y, "1 (p heads d) n t -> p n heads t d", p=parts, heads=self.num_heads).unbind()  # views

    def logit_bias(self, x: Tensor) -> Tensor | None:
        """Position bias plus the mask of padded keys: (1 | windows, heads | 1, ws² | 1, ws²), or None."""
        mask = padding_bias(x, self.window_size, self.split)
        if self.relative_position_bias_table is None:
            return mask
        bias = self.relative_position_bias_table[self.relative_position_index]  # ws², ws², heads
        bias = bias.permute(2, 0, 1)[None]  # 1, heads, ws², ws²
        return bias if mask is None else bias + mask

    def aggregate(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Attention itself, and back to a map: three times (B·windows, heads, ws², d) -> (B, C, H', W')."""
        if bias is not None:
            bias = bias.to(query.dtype)
            if 1 < bias.shape[0] < query.shape[0]:
                bias = bias.repeat(query.shape[0] // bias.shape[0], 1, 1, 1)  # windows -> B·windows
        out = attend(query, key, value, bias, self.attn_drop_rate if self.training else 0.0)
        return merge_windows(out, size, self.window_size, self.split)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, drop_rate: float) -> Tensor:
    """Scaled dot-product attention of many short sequences.

    Args:
        query: Queries of shape (windows, heads, tokens, d); key and value alike.
        key: Keys.
        value: Values.
        bias: Added to the logits, (1 | windows, heads | 1, tokens | 1, tokens), or None.
        drop_rate: Dropout on the attention weights.

    Returns:
        Mixed values of shape (windows, heads, tokens, d).
    """
    if query.device.type != "cpu" or _reads_strides(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop_rate)
    # In training, PyTorch's CPU kernel for attention does not take a learned bias; in half precision it is slower for
    # 49 tokens than two batched products.
    scale = query.shape[-1] ** -0.5
    q, k, v = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # windows·heads, tokens, d
    if bias is None:
        logits = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    else:  # the product is added to a copy of the bias: no pass for the sum
        logits = bias.expand(*query.shape[:3], -1).clone(memory_format=torch.contiguous_format).flatten(0, 1)
        logits.baddbmm_(q, k.transpose(1, 2), alpha=scale)  # windows·heads, tokens, tokens
    if not cpu_inference(query):
        weights = logits.softmax(-1)  # in fp32 inside, whatever the type
    else:  # in place; half precision is faster converted before than inside
        logits = logits.float() if logits.element_size() < 4 else logits
        weights = torch.softmax(logits, dim=-1, out=logits).to(v.dtype)
    return torch.bmm(F.dropout(weights, drop_rate) if drop_rate else weights, v).view_as(query)


def _reads_strides(x: Tensor) -> bool:
    """Whether attention over ``x`` will be PyTorch's CPU kernel, which takes parts and heads without a copy."""
    return cpu_inference(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
