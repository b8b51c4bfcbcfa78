"""What a block knows about a token mixer."""

from __future__ import annotations

from torch import Tensor, nn

from .bands import POINTWISE, Reach


class Mixer(nn.Module):
    """A token mixer in two steps, of which the second can run on a part of the map.

    Any module from (B, C, H, W) to (B, C, H, W) is a mixer; one that derives from this class also tells which of its
    work stays inside bands of rows, so that a block can keep that in the processor's cache.
    """

    @property
    def reach(self) -> Reach:
        """Which rows :meth:`gather` mixes."""
        return POINTWISE

    def spread(self, x: Tensor) -> tuple[Tensor, ...]:
        """What needs the whole map: (B, C, H, W) -> maps of any channels and the same H×W.

        The last one, unless it is ``x``, must be a map of the mixer's own, for it may be overwritten.
        """
        return (x,)

    def gather(self, *maps: Tensor) -> Tensor:
        """The rest, for any number of rows: what :meth:`spread` returned -> (B, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must define gather().")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.gather(*self.spread(x))
