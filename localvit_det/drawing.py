"""Former name of `localvit_det.visualization`, which stays for one release."""

from .deprecation import former_names

_NAMES = ("Objects", "class_color", "draw_objects", "draw_pair", "draw_readable")
__getattr__ = former_names(__name__, {name: f"localvit_det.visualization:{name}" for name in _NAMES})
