"""What this package registers is known to the sister libraries of MMDetection by the same names.

A config of MMSegmentation or MMPretrain looks names up among its own and in MMEngine's root registries, but not in
MMDetection's, where ours are.
"""

import mmdet.registry
from mmengine.registry import Registry

_PACKAGE = __name__.partition(".")[0] + "."


def share_registrations() -> None:
    """Registers our classes in the root registries, too; doing so again changes nothing."""
    for registry in vars(mmdet.registry).values():
        if not isinstance(registry, Registry) or registry.parent is None:
            continue
        for name, cls in registry.module_dict.items():
            # A name that is taken there, such as LoadImageFromFile, is left to its owner.
            if getattr(cls, "__module__", "").startswith(_PACKAGE) and name not in registry.parent.module_dict:
                registry.parent.register_module(name=name, module=cls)
