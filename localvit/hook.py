"""Lets `import mmdet` import `localvit_det`, too, where `localvit hook on` has asked for it.

MMDetection's models cannot be imported without the compiled operators of MMCV; importing `localvit_det` puts others in
their place, but a script like `from mmdet.apis import DetInferencer` does not know of it. Nothing else is touched: one
file in the environment's site-packages, which `localvit hook off` removes, calls `install` when Python starts.
"""

from __future__ import annotations

import sys

# Every process of the environment pays for what is imported here, `typing` included.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class MMDetFinder:
    """Finds mmdet as everybody does, and has the library imported as soon as mmdet itself is there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answers for mmdet only, and once."""
        if name != "mmdet":
            return None
        import importlib.util
        import warnings

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_import(module: ModuleType) -> None:
            execute(module)
            try:
                importlib.import_module("localvit_det")
            except ImportError as error:  # mmdet shall not be worse off than without this package
                warnings.warn(f"localvit_det could not be imported: {error}", stacklevel=2)

        spec.loader.exec_module = execute_and_import
        return spec


def install() -> None:
    """Watches for the first import of mmdet in this process."""
    if "mmdet" not in sys.modules:
        sys.meta_path.insert(0, MMDetFinder())
