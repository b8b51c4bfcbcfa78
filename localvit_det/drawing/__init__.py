"""Objects drawn into images; the color of a class is the same in every picture."""

from .objects import class_color, draw_objects
from .pairs import Objects, draw_pair, draw_readable

__all__ = ["Objects", "class_color", "draw_objects", "draw_pair", "draw_readable"]
