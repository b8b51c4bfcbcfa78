"""Local vision transformers as backbones for MMDetection.

Importing this package registers everything in MMEngine's and MMDetection's registries, and applies `patches`. Where
MMDetection is not installed there are the networks, `localvit_det.backbones`, which need PyTorch and MMEngine.

An image enters by `datasets`, passes a network of `backbones`, which is made of `layers`, and leaves as feature maps
for MMDetection's neck and heads (`heads` has ours). `ops` computes the same as plain PyTorch, faster or in less memory;
`fused` has what `fuse()` puts in place of layers; `export` writes networks for other runtimes. `config`, `preflight`
and `checkpoint` read and check what the user brings, `engine` trains and validates, `evaluation` scores, `predict` runs
detectors on images, `drawing` shows, `analysis` explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import requirements

requirements.check_networks()  # before anything that imports them

from . import backbones, fused, inference, patches  # noqa: E402, F401
from .registration import register  # noqa: E402

if requirements.has_mmdetection():
    register()
else:
    patches.apply()

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "backbones", "fused", "register"]

if TYPE_CHECKING:
    from .predict import Detector


def __getattr__(name: str) -> Any:
    """Import `Detector` when it is first used: without MMDetection there is none."""
    if name == "Detector":
        register()  # says what is missing
        from .predict import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
