"""Block = token mixer + MLP, each on a residual branch."""

from __future__ import annotations

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .attention import WindowAttention
from .bands import POINTWISE, residual
from .fuse import fuse_into_next
from .mixer import Mixer
from .modes import hooked
from .recompute import cheap_outputs


class Block(nn.Module):
    """x + mixer(norm1(x)), then x + mlp(norm2(x)), each branch dropped at random while training.

    Args:
        norm1: Before the mixer; ``nn.Identity()`` for mixers that normalise by themselves.
        mixer: Mixes tokens, (B, C, H, W) -> (B, C, H, W) for any H×W; a plain module, or a :class:`Mixer`.
        norm2: Before the MLP.
        mlp: Mixes channels.
        drop_path_rate: Probability of dropping a branch, per image.
    """

    def __init__(
        self, norm1: nn.Module, mixer: nn.Module, norm2: nn.Module, mlp: nn.Module, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.transform(self.mix(x))

    def mix(self, x: Tensor) -> Tensor:
        """Mix tokens: (B, C, H, W) -> (B, C, H, W)."""
        with cheap_outputs() as cheap:
            normed = cheap(self.norm1, x)
            if isinstance(self.mixer, Mixer) and not hooked(self):
                maps = self.mixer.spread(normed)
                workspace = None if maps[-1] is normed else maps[-1]
                return residual(x, self.mixer.gather, maps, self.mixer.reach, self.drop_path, workspace)
            return residual(x, nn.Identity(), (self.mixer(normed),), None, self.drop_path)

    def transform(self, x: Tensor) -> Tensor:
        """Mix channels: (B, C, H, W) -> (B, C, H, W), which may overwrite its input where nothing is recorded."""
        with cheap_outputs() as cheap:

            def branch(band: Tensor) -> Tensor:
                return self.mlp(cheap(self.norm2, band))

            return residual(x, branch, (x,), None if hooked(self) else POINTWISE, self.drop_path, workspace=x)

    def fuse(self) -> None:
        """Fold the norms before 1×1 convolutions into these."""
        if isinstance(self.mixer, WindowAttention):
            self.norm1, self.mixer.qkv = fuse_into_next(self.norm1, self.mixer.qkv)
        self.norm2, self.mlp.fc1 = fuse_into_next(self.norm2, self.mlp.fc1)
