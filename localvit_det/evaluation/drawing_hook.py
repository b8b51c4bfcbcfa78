"""What `--show-dir` writes: a file for each image, also where images of several folders have one name."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..datasets.images import decode, pixel_range_of
from ..errors import first_line
from ..output_names import OutputFolder, drawn_suffix


class UniqueDrawings(Hook):
    """Added to a hook that draws: files get their names before the first is written, and none is an image that is read.

    A file is called as its image; with the folders where several are called so.

    Attributes:
        settings: Names of the hook's attributes that the visualizer takes as arguments.
    """

    settings: ClassVar[dict[str, str]] = {"show": "show", "wait_time": "wait_time"}

    def before_test(self, runner: Runner) -> None:
        """Plans the names of all files.

        Raises:
            OutputError: One would be written over an image that is read.
        """
        if not self.draw or self.test_out_dir is None:
            return
        self._pixel_range = pixel_range_of(runner.cfg.get("pixel_range"))
        dataset = runner.test_dataloader.dataset
        paths = [dataset.get_data_info(index).get("img_path") for index in range(len(dataset))]
        paths = list(dict.fromkeys(map(os.path.abspath, filter(None, paths))))
        counts = Counter(os.path.basename(path).casefold() for path in paths)
        common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        names = [
            os.path.basename(path) if counts[os.path.basename(path).casefold()] == 1 else os.path.relpath(path, common)
            for path in paths
        ]
        self._files = OutputFolder(self.test_out_dir, paths)
        self._names = dict(zip(paths, self._files.plan([(one, drawn_suffix(one)) for one in names]), strict=True))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[Any]) -> None:
        """Draws the samples of a batch; arguments are MMDetection's."""
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        for sample in outputs:
            self._test_index += 1
            try:
                self._draw(sample)
            # The numbers of a long evaluation are worth more than a drawing.
            except Exception as error:
                print_log(f"{sample.img_path} is not drawn ({first_line(error)}).", "current", logging.WARNING)

    def _draw(self, sample: Any) -> None:
        path = os.path.abspath(sample.img_path)
        if path not in self._names:
            self._names[path] = self._files.name(os.path.basename(path), drawn_suffix(path))
        self._visualizer.add_datasample(
            os.path.basename(path) if self.show else "test_img",
            decode(get(path, backend_args=self.backend_args), pixel_range=self._pixel_range)[..., ::-1],
            data_sample=sample,
            out_file=str(self._files.path(self._names[path])),
            step=self._test_index,
            **{argument: getattr(self, attribute) for argument, attribute in self.settings.items()},
        )


@HOOKS.register_module()
class DrawingHook(UniqueDrawings, DetVisualizationHook):
    """MMDetection's hook that draws."""

    settings: ClassVar[dict[str, str]] = {**UniqueDrawings.settings, "pred_score_thr": "score_thr"}
