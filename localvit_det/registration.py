"""When this package registers what it has: as soon as there is somebody who can use it.

The networks stand on PyTorch and MMEngine alone, and whoever wants one in plain PyTorch shall not wait for MMDetection,
or need it. Everybody else shall find everything registered, and what stock OpenMMLab lacks mended, without a call. So
all that happens before the first import of MMDetection, of a library beside it or of a part of this package that needs
it, and before MMEngine first looks anything up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

_PACKAGE = __name__.partition(".")[0]
_NETWORKS = (
    *("backbones", "layers", "ops", "inference", "errors", "files", "download", "output_names", "registration"),
    "on_lookup",
)
_WEIGHTS = (  # of checkpoint
    *("allowed", "fit", "identify", "layouts", "limits", "official", "plain_init", "read", "records", "report"),
)
_OTHERS = ("mmdet", "mmseg", "mmpretrain", "mmcv.ops")
_state = {"begun": False}


def register() -> None:
    """Checks the installation, mends what OpenMMLab lacks, registers everything; doing so again changes nothing.

    Raises:
        RequirementError: A package is missing, too old, too new or built for another PyTorch.
    """
    if _state["begun"]:
        return
    _state["begun"] = True
    try:
        from . import compat

        compat.apply()  # before anything that imports mmcv.ops

        from . import datasets, engine, evaluation, heads  # noqa: F401
        from .checkpoint import baselines, load, write
        from .compat import coordinates
        from .config import packaged

        coordinates.install()  # boxes and priors stay fp32 under mixed precision
        packaged.install()  # localvit_det:: in a config's _base_
        load.install()  # every load is converted, reported and checked
        baselines.install()  # also into the backbones of MMDetection that ours are compared with
        write.install()  # every checkpoint is written whole or not at all
        share_registrations()
    except BaseException:
        _state["begun"] = False
        raise


def share_registrations() -> None:
    """Lets MMDetection and its sister libraries know the same names; doing so again changes nothing.

    A config of MMSegmentation or MMPretrain looks names up among its own and in MMEngine's root registries, but not in
    MMDetection's, where most of ours are. The networks are in the root, and who lists MMDetection's shall see them.
    """
    import mmdet.registry

    from .backbones import LocalViT

    for registry in vars(mmdet.registry).values():
        if not isinstance(registry, Registry) or registry.parent is None:
            continue
        root = registry.parent
        for name, cls in registry.module_dict.items():
            # A name that is taken there, such as LoadImageFromFile, is left to its owner.
            if getattr(cls, "__module__", "").startswith(f"{_PACKAGE}.") and name not in root.module_dict:
                root.register_module(name=name, module=cls)
    for name, cls in mmengine.registry.MODELS.module_dict.items():
        if isinstance(cls, type) and issubclass(cls, LocalViT) and name not in mmdet.registry.MODELS.module_dict:
            mmdet.registry.MODELS.register_module(name=name, module=cls)


def register_when_needed() -> None:
    """Registers now where OpenMMLab is at work already, else when it begins."""
    if _state["begun"]:
        return
    if any(name in sys.modules for name in (*_OTHERS, "mmengine.runner")) and is_possible():
        register()
        return
    sys.meta_path.insert(0, _Watch())
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, Registry) and registry.parent is None:
            registry._locations.append(f"{_PACKAGE}.on_lookup")  # MMEngine imports it before it looks for a name
            registry._imported = False
    original = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(f"{_PACKAGE}::") and not _state["begun"]:
            register()
            return Config._get_cfg_path(cfg_path, filename)
        return original(cfg_path, filename)

    Config._get_cfg_path = staticmethod(get_cfg_path)


def is_possible() -> bool:
    """Whether MMDetection is there at all; where it is not, the networks are all there is."""
    return _is_there("mmdet") and _is_there("mmcv")


def _is_there(name: str) -> bool:
    # Not by importlib.util.find_spec, which asks the watch below, too.
    return sys.modules[name] is not None if name in sys.modules else PathFinder.find_spec(name) is not None


class _Watch(MetaPathFinder):
    """Finds no module, but sees the first import of one that needs the registrations."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Registers, which imports the module, too."""
        top, _, rest = name.partition(".")
        room, _, part = rest.partition(".")
        plain = room in _NETWORKS or (room == "checkpoint" and part in ("", *_WEIGHTS))
        own = top == _PACKAGE and not plain
        # A library beside MMDetection works without it, and without what is registered here.
        other = name in _OTHERS and _is_there(top) and (name == "mmdet" or is_possible())
        if _state["begun"] or not (own or other):
            return None
        register()
        return _loaded(sys.modules[name]) if name in sys.modules else None


class _Loaded(Loader):
    """Hands over a module that has been imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module as it is."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do, but to give its own spec back to the module."""
        module.__spec__ = self.spec


def _loaded(module: ModuleType) -> ModuleSpec:
    spec = ModuleSpec(module.__name__, _Loaded(module), origin=module.__spec__.origin)
    spec.submodule_search_locations = module.__spec__.submodule_search_locations
    module.__spec__ = spec  # importlib takes the spec of a module that is there, and would run the original one again
    return spec
