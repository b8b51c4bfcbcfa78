"""Checkpoints in and out: official layouts, a report of every load, resized tables, published files.

Only what is pure stands here, because the backbones declare their layouts with it; what needs models is in
`families`, `load` and `publish`.
"""

from .layouts import Rule, fit_shapes, rename_key, rename_keys
from .resize import Resizer

__all__ = ["Resizer", "Rule", "fit_shapes", "rename_key", "rename_keys"]
