"""Local vision transformers as backbones for MMDetection.

Importing this package registers the networks and the runner in MMEngine's registries, everything in MMDetection's, and
applies `patches`. Where MMDetection is not installed there are the networks, `localvit_det.backbones`, which need
PyTorch and MMEngine.

An image enters by `datasets`, passes a network of `backbones`, which is made of `layers`, and leaves as feature maps
for MMDetection's neck and heads (`heads` has ours). `ops` computes the same as plain PyTorch, faster or in less memory;
`fused` has what `fuse()` puts in place of layers; `export` writes networks for other runtimes. `config`, `preflight`
and `checkpoint` read and check what the user brings, `engine` trains and validates, `evaluation` scores, `predict` runs
detectors on images, `visualization` shows, `analysis` explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import requirements

requirements.check_networks()  # before anything that imports them

from . import backbones, fused, layers, patches  # noqa: E402
from .deprecation import add_former_modules  # noqa: E402


def register() -> None:
    """Check the installation, apply `patches`, register everything; doing so again changes nothing.

    Raises:
        RequirementError: A package is missing, too old, too new or built for another PyTorch; or a backbone is
            called as one of MMDetection's classes.
    """
    requirements.check_requirements()
    patches.apply()  # the operators before anything that imports `mmdet.models`

    from mmdet.registry import MODELS

    from . import datasets, engine, evaluation, heads, visualization  # noqa: F401 - each registers its classes
    from .checkpoint.networks import refuse_taken_names

    _share()
    refuse_taken_names(MODELS)


def _share() -> None:
    """Register in MMDetection's registries, for `mmdet.NAME`, what is in MMEngine's root: networks and the runner.

    All else of ours is in MMDetection's alone, and its names are the user's in the root; see `config.utils.share_with`.
    """
    from mmdet.registry import MODELS, RUNNERS

    for own in (MODELS, RUNNERS):
        for name, cls in own.root.module_dict.items():
            if cls.__module__.startswith(f"{__package__}.") and name not in own.module_dict:
                own.register_module(name=name, module=cls)
    if "LN2d" not in MODELS.module_dict:  # MMCV looks norms up by name
        MODELS.register_module(name="LN2d", module=layers.norm.LayerNorm2d)


if requirements.has_mmdetection():
    register()
else:
    patches.apply()
add_former_modules(__name__)

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
