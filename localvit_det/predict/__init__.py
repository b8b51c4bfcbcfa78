"""Find objects in images, in three lines; see `Detector`."""

from .detector import Detector
from .result import Result

__all__ = ["Detector", "Result"]
