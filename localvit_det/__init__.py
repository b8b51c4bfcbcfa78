"""Local vision transformers as backbones for MMDetection.

Importing this package is all that is needed: it mends what stock OpenMMLab lacks on today's PyTorch (see
:mod:`localvit_det.compat`) and registers everything in MMDetection's registries, both as soon as OpenMMLab is at work
(see :mod:`localvit_det.registration`). The networks alone, `localvit_det.backbones`, need PyTorch and MMEngine only.

An image enters by `datasets`, passes a network of `backbones`, which is made of `layers`, and leaves as maps for
MMDetection's neck and heads (`heads` has ours). `ops` computes the same as plain PyTorch, faster or in less memory;
`inference` replaces layers by faster forms, `export` writes networks for other runtimes. `config`, `preflight` and
`checkpoint` read and check what the user brings, `engine` trains and validates, `evaluation` counts, `predict` finds,
`drawing` shows, `analysis` explains.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

# MMEngine's matter, which no user can mend; it comes dozens of times.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from .compat.requirements import check_networks  # noqa: E402

check_networks()  # before anything that imports them

from . import backbones, fused  # noqa: E402
from .registration import register, register_when_needed  # noqa: E402

register_when_needed()

__version__ = "0.1.0"
_ROOMS = ("datasets", "engine", "evaluation", "heads")  # imported when they are first asked for
__all__ = ["Detector", "__version__", "backbones", "datasets", "engine", "evaluation", "fused", "heads", "register"]

if TYPE_CHECKING:
    from . import datasets, engine, evaluation, heads
    from .predict import Detector


def __getattr__(name: str) -> Any:
    """Imports `Detector` and the rooms around the networks when they are first used."""
    if name == "Detector":
        from .predict import Detector

        return Detector
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
