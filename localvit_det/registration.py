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
        for source, target in ((own, root), (root, own)):
            for name, cls in source.module_dict.items():
                # LoadImageFromFile is MMCV's in the root, and ours in MMDetection's.
                if cls.__module__.startswith(f"{__package__}.") and name not in target.module_dict:
                    target.register_module(name=name, module=cls)
