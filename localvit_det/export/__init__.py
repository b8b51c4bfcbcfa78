"""Export networks to files for other runtimes; each file is run and compared with the network, or it is not kept.

`backbone` works without MMDetection; `detector`, `quantize` and `runtime` need it.
"""

from ..deprecation import former_names
from .backbone import Comparison, export_backbone
from .formats import FORMATS, OPSET, ExportSpec, export_to, find_format

__all__ = ["FORMATS", "OPSET", "Comparison", "ExportSpec", "export_backbone", "export_to", "find_format"]

__getattr__ = former_names(
    __name__,
    {"Program": "localvit_det.export.formats:ExportSpec", "written": "localvit_det.export.formats:export_to"},
)
