"""Sizes: Swin's, which many families share; settings for each stage; what a backbone reports about its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")

SWIN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dims": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dims": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dims": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


def swin_sizes(heads: bool = True, **drop_path_rates: float) -> dict[str, dict[str, Any]]:
    """Return the ``arch_settings`` of a family with Swin's widths and depths, and attention heads if it has some.

    The drop path rates are the family's own, by size; sizes that are not named are left out.
    """
    dropped = () if heads else ("num_heads",)
    return {
        name: {key: value for key, value in SWIN_SIZES[name].items() if key not in dropped} | {"drop_path_rate": rate}
        for name, rate in drop_path_rates.items()
    }


def stage_widths(embed_dims: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """Return the channels of each stage: as :func:`for_each_stage`, one doubled from stage to stage."""
    if isinstance(embed_dims, int):
        return tuple(embed_dims * 2**i for i in range(stages))
    return for_each_stage("embed_dims", embed_dims, stages)


def for_each_stage(name: str, value: Number | Sequence[Number], stages: int) -> tuple[Number, ...]:
    """Return a setting for each stage, which is given per stage or once for all; a ValueError names another number."""
    if isinstance(value, (int, float)):
        return (value,) * stages
    if len(value) != stages:
        raise ValueError(f"{name}={tuple(value)} must be one number, or {stages}: one per stage.")
    return tuple(value)


def drop_path_ramp(rate: float, steps: int) -> list[float]:
    """Return probabilities that rise linearly from 0 to ``rate``, as Python's numbers on whatever device one builds."""
    return [rate * step / max(1, steps - 1) for step in range(steps)]


def check_stages(out_indices: Sequence[int], stages: int) -> tuple[int, ...]:
    """Return the stages whose feature maps are returned.

    Raises:
        ValueError: They are no stages, or not each one once in ascending order.
    """
    asked, known = tuple(out_indices), tuple(range(stages))
    if not asked or not set(asked) <= set(known):
        raise ValueError(f"out_indices={asked} must name stages among {known}.")
    if asked != (ordered := tuple(sorted(set(asked)))):
        raise ValueError(f"out_indices={asked} must name each stage once, in ascending order: write {ordered}.")
    return asked


def check_odd(name: str, sides: int | Sequence[int]) -> None:
    """Refuse sides of kernels that are even or below 1, by a ValueError."""
    if any(side < 1 or side % 2 == 0 for side in ([sides] if isinstance(sides, int) else sides)):
        raise ValueError(
            f"{name}={sides} must be odd: it is the side of a convolution's kernel, which has no middle otherwise."
        )


@dataclass(frozen=True)
class FeatureInfo:
    """Channels, strides and modules of a backbone's stages, under the names of timm's `model.feature_info`.

    Args:
        all_channels: Of every stage.
        strides: Pixels of the image per token, of every stage.
        modules: Where each stage's feature map comes from: the output norm if it has one.
        out_indices: Stages whose feature maps are returned.
    """

    all_channels: Sequence[int]
    strides: Sequence[int]
    modules: Sequence[str]
    out_indices: Sequence[int]

    def channels(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Return the channels of the returned feature maps, or of the stages ``idx``."""
        return self._of(self.all_channels, idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Return the strides of the returned feature maps, or of the stages ``idx``."""
        return self._of(self.strides, idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> str | list[str]:
        """Return the names of the modules that make the returned feature maps, or those of the stages ``idx``."""
        return self._of(self.modules, idx)

    def _of(self, values: Sequence[Value], idx: int | Sequence[int] | None) -> Value | list[Value]:
        if isinstance(idx, int):
            return values[idx]
        return [values[i] for i in (self.out_indices if idx is None else idx)]

    def __len__(self) -> int:
        return len(self.out_indices)
