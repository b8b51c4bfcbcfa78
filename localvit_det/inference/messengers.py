"""MSG-Transformer's blocks for inference: whole rows of windows at a time, norms inside the bands."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..backbones.msg_transformer import MessengerAttention, MessengerBlock
from ..layers import (
    Fused,
    WithMessengers,
    add_messenger_keys,
    form_of,
    join_windows,
    key_padding_mask,
    part_windows,
    shuffle_messengers,
)
from ..ops import attention, cpu_inference
from . import bands
from .blocks import FusedBlock
from .folding import fuse_bn_conv
from .packed import pack


class FusedMessengerAttention(Fused):
    """A :class:`MessengerAttention`, its position bias looked up once, for any number of rows of windows.

    Args:
        mixer: The attention.
    """

    def __init__(self, mixer: MessengerAttention) -> None:
        super().__init__()
        self.num_heads, self.window_size = mixer.num_heads, mixer.window_size
        self.norm: nn.Module = nn.Identity()
        self.qkv = pack(mixer.qkv)
        self.proj = pack(mixer.proj)
        self.register_buffer("position_bias", mixer.position_bias().detach().contiguous())

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Take the norm before the attention, into the projection or at least into the bands."""
        self.norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return nn.Identity()

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, rows, W) and (B, C, ⌈rows/ws⌉, ww) -> the same shapes."""
        patches, messengers = x
        tokens = self.norm(join_windows(patches, messengers, self.window_size))  # 1, C, B·windows, 1 + ws²
        qkv = self.qkv(tokens)
        query, key, value = rearrange(qkv, "1 (p heads d) n t -> p n heads t d", p=3, heads=self.num_heads).unbind()
        mask = add_messenger_keys(key_padding_mask(patches, self.window_size, "local"))
        if mask is not None and mask.shape[0] > 1:
            mask = mask.repeat(len(patches), 1, 1, 1)  # windows -> B·windows
        mask = self.position_bias if mask is None else self.position_bias + mask
        mixed = rearrange(attention(query, key, value, mask), "n heads t d -> 1 (heads d) n t")
        return part_windows(self.proj(mixed), patches.shape[-2:], self.window_size)


class FusedMessengerBlock(FusedBlock):
    """A :class:`MessengerBlock` whose branches run over bands of rows of windows on a CPU.

    Args:
        block: The block.
    """

    def __init__(self, block: MessengerBlock) -> None:
        super().__init__(block)
        self.region = block.region

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        patches, messengers = self.attend(*x)
        messengers = shuffle_messengers(messengers, self.region)
        patches = bands.add_branch(patches, self.norm2, self.mlp, overwrite=True)
        return patches, bands.add_branch(messengers, self.norm2, self.mlp)

    def attend(self, patches: Tensor, messengers: Tensor) -> WithMessengers:
        """The first branch, added: (B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        side = self.mixer.window_size
        cuts = bands.cut_into_bands(patches, side, "local") if cpu_inference(patches) else []
        if len(cuts) < 2:
            mixed, letters = self.mixer((self.norm1(patches), self.norm1(messengers)))
            return patches + mixed, messengers + letters
        sums = torch.empty_like(patches), torch.empty_like(messengers)
        for image in range(len(patches)):
            for (rows,) in cuts:
                windows = slice(rows.start // side, -(-rows.stop // side))
                band = patches[image, None, :, rows], messengers[image, None, :, windows]
                mixed, letters = self.mixer((self.norm1(band[0]), self.norm1(band[1])))
                torch.add(band[0], mixed, out=sums[0][image, None, :, rows])
                torch.add(band[1], letters, out=sums[1][image, None, :, windows])
        return sums


form_of(MessengerAttention)(FusedMessengerAttention)
form_of(MessengerBlock)(FusedMessengerBlock)
