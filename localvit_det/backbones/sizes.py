"""Swin's sizes, which the families here share."""

from typing import Any

SWIN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dims": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dims": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dims": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


def swin_sizes(heads: bool = True, **drop_path_rates: float) -> dict[str, dict[str, Any]]:
    """``arch_settings`` of a family that has Swin's widths and depths.

    Args:
        heads: Whether the family has attention heads.
        drop_path_rates: The family's own, by size; sizes that are not named are left out.
    """
    dropped = () if heads else ("num_heads",)
    return {
        name: {key: value for key, value in SWIN_SIZES[name].items() if key not in dropped} | {"drop_path_rate": rate}
        for name, rate in drop_path_rates.items()
    }
