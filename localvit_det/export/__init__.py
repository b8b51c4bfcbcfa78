"""Networks as files for other runtimes. Each is run and compared with the network, or it is not kept."""

from .backbone import export_backbone
from .compare import Comparison
from .formats import FORMATS, OPSET, Program, find_format, written

__all__ = ["FORMATS", "OPSET", "Comparison", "Program", "export_backbone", "find_format", "written"]
