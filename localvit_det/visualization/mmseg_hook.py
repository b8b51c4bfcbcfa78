"""What `--show-dir` writes for configs of MMSegmentation; imported only where one is run."""

from typing import Any

from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS

from .hooks import UniqueDrawings


@HOOKS.register_module()
class SegDrawingHook(UniqueDrawings, SegVisualizationHook):
    """MMSegmentation's hook that draws, with `UniqueDrawings`.

    Args:
        test_out_dir: The folder of the files.
        settings: Of MMSegmentation's.
    """

    def __init__(self, test_out_dir: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.test_out_dir = test_out_dir
        self._test_index = 0
