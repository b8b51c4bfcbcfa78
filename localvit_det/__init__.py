"""Local vision transformers as backbones for MMDetection.

Importing this package registers everything in MMEngine's and MMDetection's registries, and applies `patches`. Where
MMDetection is not installed there are the networks, `localvit_det.backbones`, which need PyTorch and MMEngine.

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

from . import backbones, fused, patches  # noqa: E402
from .deprecation import add_former_modules  # noqa: E402

_KINDS = (
    *("DATASETS", "HOOKS", "LOOPS", "METRICS", "MODELS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "RUNNERS"),
    *("TRANSFORMS", "VISBACKENDS", "VISUALIZERS"),
)


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
    """Register our classes in MMEngine's root registries and in MMDetection's.

    A config of MMSegmentation or MMPretrain looks a name up among its own and in the root, `mmdet.NAME` in
    MMDetection's alone.
    """
    import mmdet.registry
    import mmengine.registry

    for kind in _KINDS:
        root, own = getattr(mmengine.registry, kind), getattr(mmdet.registry, kind)
        for name, cls in {**root.module_dict, **own.module_dict}.items():
            if cls.__module__.startswith(f"{__package__}."):
                for registry in (root, own):
                    if name not in registry.module_dict:  # in the root LoadImageFromFile stays MMCV's
                        registry.register_module(name=name, module=cls)


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
