"""What a backbone tells about its maps, under the names that timm's models have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureInfo:
    """Channels, strides and modules of a backbone's stages; `model.feature_info` of timm.

    Args:
        all_channels: Of every stage.
        strides: Pixels of the image per token, of every stage.
        modules: Where each stage's map comes from: the output norm if it has one.
        out_indices: Stages whose maps are returned.
    """

    all_channels: Sequence[int]
    strides: Sequence[int]
    modules: Sequence[str]
    out_indices: Sequence[int]

    def channels(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Channels of the returned maps, or of the stages ``idx``."""
        return self._of(self.all_channels, idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Strides of the returned maps, or of the stages ``idx``."""
        return self._of(self.strides, idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> str | list[str]:
        """Names of the modules that make the returned maps, or those of the stages ``idx``."""
        return self._of(self.modules, idx)

    def _of(self, values: Sequence, idx: int | Sequence[int] | None) -> object:
        if isinstance(idx, int):
            return values[idx]
        return [values[i] for i in (self.out_indices if idx is None else idx)]

    def __len__(self) -> int:
        return len(self.out_indices)
