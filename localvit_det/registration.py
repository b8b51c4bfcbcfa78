"""Registers this package in MMEngine and MMDetection."""

from __future__ import annotations

from . import patches, requirements

_KINDS = (
    *("DATASETS", "HOOKS", "LOOPS", "METRICS", "MODELS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "RUNNERS"),
    *("TRANSFORMS", "VISBACKENDS", "VISUALIZERS"),
)


def register() -> None:
    """Check the installation, apply `patches`, register everything; doing so again changes nothing.

    Raises:
        RequirementError: A package is missing, too old, too new or built for another PyTorch.
    """
    requirements.check_requirements()
    patches.apply()  # the operators before anything that imports `mmdet.models`

    from . import datasets, engine, evaluation, heads, visualization  # noqa: F401 - each registers its classes

    _share()


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
                    if name not in registry.module_dict:  # LoadImageFromFile is MMCV's in the root, and ours in theirs
                        registry.register_module(name=name, module=cls)
