"""Local vision transformers as backbones for MMDetection.

Importing this package is all that is needed: it checks the installation, mends what stock OpenMMLab lacks on
today's PyTorch (see :mod:`localvit_det.compat`), and registers everything in MMDetection's registries.

An image enters by `datasets`, passes a network of `backbones`, which is made of `layers`, and leaves as maps for
MMDetection's neck and heads (`heads` has ours). `ops` computes the same as plain PyTorch, faster or in less memory;
`inference` replaces layers by faster forms, `export` writes networks for other runtimes. `config`, `preflight` and
`checkpoint` read and check what the user brings, `engine` trains and validates, `evaluation` counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import compat

compat.apply()  # before anything that imports mmcv.ops

from . import backbones, datasets, engine, evaluation, heads, inference  # noqa: E402
from .checkpoint import baselines, load, write  # noqa: E402
from .config import packaged  # noqa: E402
from .registration import share_registrations  # noqa: E402

packaged.install()  # localvit_det:: in a config's _base_
load.install()  # every load is converted, reported and checked
baselines.install()  # also into the two backbones of MMDetection that ours are compared with
write.install()  # every checkpoint is written whole or not at all
share_registrations()  # MMSegmentation and MMPretrain know our names, too

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "backbones", "datasets", "engine", "evaluation", "heads", "inference"]

if TYPE_CHECKING:
    from .predict import Detector


def __getattr__(name: str) -> Any:
    """Imports `Detector` when it is first used: trainings do without it."""
    if name == "Detector":
        from .predict import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
