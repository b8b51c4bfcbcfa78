"""What `tools/benchmark.py` measures: backbones side by side, single operators, and the validation of a detector."""

from .backbones import Options, measure_backbones
from .environment import describe, headline
from .plot import draw
from .report import document, table
from .rows import Row, make_rows

__all__ = ["Options", "Row", "describe", "document", "draw", "headline", "make_rows", "measure_backbones", "table"]
