"""Former names, which stay for one release: each warns, and says what it is called now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import Any

# In configs: classes and their arguments.
RENAMED_IN_CONFIGS = {"LeanFCNMaskHead": "MemoryEfficientFCNMaskHead", "lean": "recompute_activations"}
# Modules, by what they have and where it is now.
_FUSED = ("FusedBlock", "PackedConv1x1", "fuse_conv_bn", "fuse_detector")
_DRAWN = ("Objects", "class_color", "draw_objects", "draw_pair", "draw_readable")
FORMER_MODULES = {
    "checkpoint.fit": {"load_backbone": "checkpoint.loading:load_backbone"},
    "config.annotation_files": {"evaluators_follow": "config.discovery:evaluators_follow"},
    "config.augmentation": {"set_augmentation": "config.pipelines:set_augmentation"},
    "drawing": {name: f"visualization:{name}" for name in _DRAWN},
    "inference": {"fused_twin": "fused:fused_copy", **{name: f"fused:{name}" for name in _FUSED}},
    "inference.masks": {"paste_masks": "fused.roi_heads:paste_masks"},
    "predict.coco_file": {"assemble": "predict.output:assemble"},
}


def warn_renamed(former: str, now: str) -> None:
    """Issue a DeprecationWarning for a former name."""
    message = f"{former} is now called {now}; the former name goes with the next release."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def former_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module (PEP 562) that answers to former names.

    Args:
        module: The module's ``__name__``.
        names: Where each is now, as ``package.module:name``.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, now = names[name].partition(":")
        warn_renamed(f"{module}.{name}", f"{home}.{now}")
        return getattr(import_module(home), now)

    return find


def add_former_modules(package: str) -> None:
    """Let former modules of this package be imported, which warn for each name that is taken from them."""
    for name, names in FORMER_MODULES.items():
        whole = f"{package}.{name}"
        module = sys.modules[whole] = module_from_spec(ModuleSpec(whole, None, is_package=True))
        find = former_names(whole, {former: f"{package}.{place}" for former, place in names.items()})
        module.__getattr__ = find  # type: ignore[method-assign]  # PEP 562
        home, _, last = whole.rpartition(".")
        if home in sys.modules:
            setattr(sys.modules[home], last, module)
