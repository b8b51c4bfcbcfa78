"""MSG-Transformer's blocks for inference: whole rows of windows at a time, norms inside the bands."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..backbones.msg_transformer import MessengerAttention, MessengerBlock
from ..layers import Fused, key_padding_mask, register_fused, split_heads
from ..layers.messenger import WithMessengers, join_windows, shuffle_messengers, split_windows
from ..ops import attention, cpu_inference
from . import bands
from .blocks import FusedBlock
from .folding import fuse_bn_conv
from .packed import compared_once, pack


@register_fused(MessengerAttention, convs=("qkv", "proj"))
class FusedMessengerAttention(Fused):
    """A :class:`MessengerAttention`, its position bias looked up once, for any number of rows of windows.

    Args:
        mixer: The attention.
    """

    position_bias: Tensor

    def __init__(self, mixer: MessengerAttention) -> None:
        super().__init__()
        self.num_heads, self.window_size = mixer.num_heads, mixer.window_size
        self.norm: nn.Module = nn.Identity()
        self.qkv = pack(mixer.qkv)
        self.proj = pack(mixer.proj)
        self.register_buffer("position_bias", mixer.position_bias().detach().contiguous())

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the attention into the projection, or apply it inside the bands; leave none."""
        self.norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return nn.Identity()

    def add(self, x: WithMessengers, out: WithMessengers) -> None:
        """Add the branch to x, (B, C, rows, W) and (B, C, ⌈rows/ws⌉, ww), into the memory of ``out``; on a CPU."""
        side = self.window_size
        if x[0].shape[2] % side or x[0].shape[3] % side:
            mixed = self(join_windows(*x, side), x[0])  # 1, C, B·windows, 1 + ws²
            for base, branch, target in zip(x, split_windows(mixed, x[0].shape[-2:], side), out, strict=True):
                torch.add(base, branch, out=target)
            return
        # Windows are views of a feature map without padding: one pass to cut, one to merge and add.
        count, channels, rows, columns = x[1].shape
        patches, sums = (_windows(part, side) for part in (x[0], out[0]))  # B, hh, ww, ws, ws, C
        tokens = x[0].new_empty(count, rows, columns, 1 + side**2, channels)
        tokens[:, :, :, 0] = x[1].permute(0, 2, 3, 1)
        tokens[:, :, :, 1:].unflatten(3, (side, side)).copy_(patches)
        mixed = self(tokens.flatten(0, 2)[None].permute(0, 3, 1, 2), x[0])  # 1, C, B·windows, 1 + ws²
        mixed = mixed.permute(0, 2, 3, 1).reshape(tokens.shape)  # B, hh, ww, 1 + ws², C
        torch.add(x[1], mixed[:, :, :, 0].permute(0, 3, 1, 2), out=out[1])
        torch.add(patches, mixed[:, :, :, 1:].unflatten(3, (side, side)), out=sums)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """Norm, attend, project: tokens (1, C, B·windows, 1 + ws²) of this feature map -> the same shape."""
        qkv = self.qkv(self.norm(tokens))  # 1, 3C, B·windows, 1 + ws²
        query, key, value = split_heads(qkv.squeeze(0).permute(1, 2, 0), self.num_heads, parts=3)
        mask = key_padding_mask(patches, self.window_size, "local", leaders=1)
        biases = [self.position_bias] if mask is None else [self.position_bias, mask]
        return self.proj(rearrange(attention(query, key, value, biases), "n heads t d -> 1 (heads d) n t"))


@register_fused(MessengerBlock)
class FusedMessengerBlock(FusedBlock):
    """A :class:`MessengerBlock` whose branches run over bands of rows of windows on a CPU.

    Args:
        block: The block.
    """

    mixer: FusedMessengerAttention | MessengerAttention

    def __init__(self, block: MessengerBlock) -> None:
        super().__init__(block)
        self.region = block.region

    # Takes pairs, where other blocks take feature maps.
    def forward(self, x: WithMessengers) -> WithMessengers:  # type: ignore[override]
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        if not cpu_inference(x[0]):
            return self._forward(*x)
        with compared_once():  # the MLP runs twice
            return self._forward(*x)

    def _forward(self, patches: Tensor, messengers: Tensor) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        patches, messengers = self.attend(patches, messengers)
        messengers = shuffle_messengers(messengers, self.region)
        patches = bands.add_branch(patches, self.norm2, self.mlp, overwrite=True)
        return patches, bands.add_branch(messengers, self.norm2, self.mlp)

    def attend(self, patches: Tensor, messengers: Tensor) -> WithMessengers:
        """Add the first branch: (B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        if not cpu_inference(patches) or not isinstance(self.mixer, FusedMessengerAttention):
            tokens = join_windows(patches, messengers, self.mixer.window_size)  # 1, C, B·windows, 1 + ws²
            mixed = self.mixer(self.norm1(tokens), patches)
            branches = split_windows(mixed, patches.shape[-2:], self.mixer.window_size)
            return patches + branches[0], messengers + branches[1]
        side = self.mixer.window_size
        sums = torch.empty_like(patches), torch.empty_like(messengers)
        cuts = bands.cut_into_bands(patches, side, "local")
        if len(cuts) < 2:
            self.mixer.add((patches, messengers), sums)
            return sums
        for image in range(len(patches)):
            for (rows,) in cuts:
                windows = slice(rows.start // side, -(-rows.stop // side))
                self.mixer.add(
                    (patches[image, None, :, rows], messengers[image, None, :, windows]),
                    (sums[0][image, None, :, rows], sums[1][image, None, :, windows]),
                )
        return sums


def _windows(x: Tensor, side: int) -> Tensor:
    """View a feature map of whole windows, (B, C, H, W), as (B, hh, ww, ws, ws, C)."""
    return x.permute(0, 2, 3, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
