"""What blocks of many families are made of, for inference: norms folded, 1×1 layers packed.

Residual branches run over bands of rows, so that their wide tensors stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..layers import (
    Block,
    ConvMlp,
    ConvStem,
    Fused,
    Split,
    WindowAttention,
    ceil_div,
    crop,
    fused,
    key_padding_mask,
    pad_to_multiple,
    register_fused,
    split_heads,
    window_partition,
    window_reverse,
)
from ..ops import attention, cpu_inference
from .folding import fuse_bn_conv, fuse_conv_bn
from .packed import PackedConv1x1, compared_once, in_place, pack

# Size of a band's input, in bytes. The widest tensors of a block (hidden layer, query-key-value) are three to four
# times as large, and two of them are alive at a time. Smaller bands mean more parallel regions, at whose ends threads
# wait for each other: at 2 MiB a network was slower than unfused as soon as another process kept a core busy.
# A little less than 8 MiB: hidden layers of 32 MiB would be the first that C's allocator on Linux never keeps, and each
# would cost page faults.
_BAND_BYTES = 8 * 1024 * 1024 - 64 * 1024

# Which rows a branch mixes: those of a row of windows, given by window side and split.
Reach = tuple[int, Split]
POINTWISE: Reach = (1, "local")  # each position on its own


class Banded(Fused):
    """A residual branch in two steps, of which the second can run over bands of rows."""

    @property
    def reach(self) -> Reach:
        """Rows that :meth:`mix_rows` mixes."""
        return POINTWISE

    def mix_whole(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what needs the whole feature map: (B, C, H, W) -> feature maps (B, any, H, W).

        The last one, unless it is ``x``, must be the branch's own, for it may be overwritten.
        """
        return (x,)

    # Compute the rest for any rows of what `mix_whole` returned -> (B, C, rows, W), padded or not.
    mix_rows: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return crop(self.mix_rows(*self.mix_whole(x)), x.shape[-2:])


def add_branch(x: Tensor, norm: nn.Module, branch: nn.Module, overwrite: bool = False) -> Tensor:
    """Compute ``x + branch(norm(x))``, in bands where the branch is :class:`Banded`: (B, C, H, W) -> (B, C, H, W).

    The result may lie in the memory of ``x`` where ``overwrite`` says that it is not needed afterwards.
    """
    normed = norm(x)
    if not isinstance(branch, Banded):
        return x + branch(normed)
    maps = branch.mix_whole(normed)
    workspace = x if overwrite else None if maps[-1] is normed else maps[-1]
    return add_in_bands(x, branch.mix_rows, maps, branch.reach, workspace)


def add_in_bands(
    x: Tensor, branch: Callable[..., Tensor], maps: Sequence[Tensor], reach: Reach, workspace: Tensor | None = None
) -> Tensor:
    """Compute ``x + branch(*maps)``; on a CPU where nothing is recorded, one band of rows after the other.

    Bands give the same numbers as the whole feature map, because the branch never mixes rows of different bands. On a
    GPU they would only mean smaller kernels, and autograd would keep all bands anyway.

    Args:
        x: What the branch is added to, (B, C, H, W), as is the result.
        branch: The branch, ``maps`` -> (B, C, H, W), for any number of rows. Where they are padded at the bottom and
            the right, so may be what it returns.
        maps: Feature maps that the branch takes, each (B, any, H, W).
        reach: Which rows the branch mixes.
        workspace: A feature map that is not needed afterwards, ``x`` or one of ``maps``. Where it is like ``x``,
            bands are written into it: new memory costs page faults.
    """
    bands = cut_into_bands(x, *reach) if cpu_inference(x) else []
    if len(bands) < 2:
        return x + crop(branch(*maps), x.shape[-2:])
    fits = workspace is not None and (workspace.shape, workspace.dtype) == (x.shape, x.dtype)
    out = workspace if workspace is not None and fits else torch.empty_like(x)
    with compared_once():
        for base, target, *image in zip(*(m.split(1) for m in (x, out, *maps)), strict=True):  # views of 1, C, H, W
            for slices in bands:
                band = branch(*(_rows(m, slices) for m in image))  # 1, C, rows, W
                for s, part in zip(slices, band.split([s.stop - s.start for s in slices], dim=2), strict=True):
                    torch.add(base[:, :, s], part[..., : x.shape[3]], out=target[:, :, s])
    return out


def cut_into_bands(x: Tensor, window_size: int, split: Split) -> list[list[slice]]:
    """Return the rows of each band, as slices in its order; no bands where they cannot be cut."""
    height = x.shape[2]
    row_bytes = x.shape[1] * x.shape[3] * x.element_size()
    windows = -(-height // window_size)  # hh: rows of windows
    step = max(1, _BAND_BYTES // (row_bytes * window_size))  # of them, in a band
    step = -(-windows // -(-windows // step))  # no more bands, but alike
    if split == "local":
        step *= window_size
        return [[slice(start, min(start + step, height))] for start in range(0, height, step)]
    # A row of dilated windows takes every hh-th row of the feature map. A band of them, stacked, is a smaller one whose
    # dilated windows are the same; that breaks down only where whole rows of tokens are padding.
    if windows < window_size:
        return []
    return [
        [
            slice(i * windows + start, min(i * windows + min(start + step, windows), height))
            for i in range(window_size)
            if i * windows + start < height
        ]
        for start in range(0, windows, step)
    ]


def _rows(image: Tensor, slices: list[slice]) -> Tensor:
    rows = [image[:, :, s] for s in slices]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)


@register_fused(WindowAttention, convs=("qkv", "proj"))
class FusedWindowAttention(Banded):
    """A :class:`WindowAttention` that runs over bands of rows of windows; its position bias is looked up once."""

    position_bias: Tensor | None

    def __init__(self, mixer: WindowAttention) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.split = mixer.num_heads, mixer.window_size, mixer.split
        self.mask_padding = mixer.mask_padding
        self.qkv = pack(mixer.qkv)
        self.proj = pack(mixer.proj)
        table = mixer.relative_position_bias_table
        if table is None:
            self.position_bias = None
        else:
            bias = table.detach()[mixer.relative_position_index].permute(2, 0, 1)[None]  # 1, heads, ws², ws²
            self.register_buffer("position_bias", bias.contiguous())

    @property
    def reach(self) -> Reach:
        """A row of windows."""
        return self.window_size, self.split

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the attention into the projection; return what is left to apply."""
        norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return norm

    def mix_rows(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        query, key, value = self.project(x, self.qkv, parts=3)  # each B·windows, heads, ws², d
        # Projecting before cropping keeps the product's input dense.
        return crop(self.proj(self.attend(query, key, value, x)), x.shape[-2:])

    def project(self, x: Tensor, layer: nn.Module, parts: int) -> tuple[Tensor, ...]:
        """Split into windows and project: (B, C, rows, W) -> ``parts`` times (B·windows, heads, ws², d).

        ``layer`` makes that many parts, for example query, key and value: (B, C, any, any) -> (B, parts·C, any, any).
        """
        windows = window_partition(pad_to_multiple(x, self.window_size), self.window_size, self.split)  # 1, C, n, ws²
        return split_heads(layer(windows).squeeze(0).permute(1, 2, 0), self.num_heads, parts)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, x: Tensor) -> Tensor:
        """Attend, and return to a feature map: three times (B·windows, heads, ws², d) -> (B, C, rows', W')."""
        mask = key_padding_mask(x, self.window_size, self.split) if self.mask_padding else None
        mixed = attention(query, key, value, [bias for bias in (self.position_bias, mask) if bias is not None])
        size = tuple(ceil_div(side, self.window_size) * self.window_size for side in x.shape[-2:])  # rows', W'
        return window_reverse(mixed, size, self.window_size, self.split)


@register_fused(ConvMlp, convs=("fc1", "fc2"))
class FusedMlp(Banded):
    """A :class:`ConvMlp` whose first layer applies the activation by itself."""

    def __init__(self, mlp: ConvMlp) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.fc1 = PackedConv1x1(mlp.fc1, mlp.act)
        self.fc2 = pack(mlp.fc2)

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the MLP into the first layer, or apply it inside the bands; nothing is left to apply."""
        self.norm, fc1 = fuse_bn_conv(norm, self.fc1)
        self.fc1 = PackedConv1x1(fc1, self.fc1.act)
        return nn.Identity()

    def mix_rows(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        return self.fc2(self.fc1(self.norm(x)))


@register_fused(Block)
class FusedBlock(Fused):
    """A :class:`Block` whose branches run over bands of rows on a CPU.

    A branch that can work on bands derives from :class:`Banded`; one that can take the norm before it into its own
    weights offers ``fold_input_norm(norm) -> nn.Module``, which returns what is left to apply.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.mixer = _fused_branch(block.norm1, block.mixer)
        self.norm2, self.mlp = _fused_branch(block.norm2, block.mlp)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = add_branch(x, self.norm1, self.mixer)
        return add_branch(x, self.norm2, self.mlp, overwrite=True)


def _fused_branch(norm: nn.Module, branch: nn.Module) -> tuple[nn.Module, nn.Module]:
    branch = fused(branch)
    # Of its class: a wrapper that passes attributes on does not take the norm.
    fold = getattr(type(branch), "fold_input_norm", None)
    return fold(branch, norm) if fold else norm, branch


@register_fused(ConvStem)
class FusedConvStem(Fused):
    """A :class:`ConvStem` without norms, and with activations in place: its feature maps are the largest of all."""

    def __init__(self, stem: ConvStem) -> None:
        super().__init__()
        self.conv1, self.norm1 = fuse_conv_bn(stem.conv1, stem.norm1)
        self.conv2, self.norm2 = fuse_conv_bn(stem.conv2, stem.norm2)
        self.act1, self.act2 = in_place(stem.act1), in_place(stem.act2)
        self.conv3 = pack(stem.conv3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        x = self.act1(self.norm1(self.conv1(x)))  # B, C', ⌈H/2⌉, ⌈W/2⌉
        x = self.act2(self.norm2(self.conv2(x)))  # B, C, ⌈H/4⌉, ⌈W/4⌉
        return self.conv3(x)
