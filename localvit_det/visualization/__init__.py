"""Objects drawn into images, and what MMDetection draws with in a test; importing this package registers it."""

from .draw import Objects, class_color, draw_objects, draw_pair, draw_readable
from .hooks import DrawingHook, PairVisualizer, draw_predictions

__all__ = [
    "DrawingHook",
    "Objects",
    "PairVisualizer",
    "class_color",
    "draw_objects",
    "draw_pair",
    "draw_predictions",
    "draw_readable",
]
