"""Train, evaluate and export from Python: what the commands do, with exceptions instead of exit codes.

    detector = Detector("shuffle_t")
    run = detector.train(data="folder", epochs=3, batch=2)
    detector.val()
    detector.export("detector.onnx")

Every option of a command is an argument, with `_` for `-`: the commands decide what each does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.search import newest_for_test
from ..engine.processes import Stopped, unlock_work_dir
from ..engine.reporting import CURVES_FILE
from ..errors import ConfigError


@dataclass(frozen=True)
class Training:
    """What a training has left; in a notebook it shows its curves."""

    folder: Path  # the work dir
    metrics: Mapping[str, Any]  # of the last validation, such as `coco/bbox_mAP`
    checkpoint: Path  # the best one where validations chose it, else the last
    # Losses of each iteration and metrics of each validation, by names such as `train/loss`, since the last start.
    curves: Mapping[str, np.ndarray]

    def _repr_png_(self) -> bytes | None:
        file = self.folder / CURVES_FILE
        return file.read_bytes() if file.is_file() else None


class Workflows:
    """What a `Detector` does in addition to inference."""

    _source: str  # the config, or the checkpoint, that it was made of
    _options: Mapping[str, Any]
    trained: bool

    def train(self, data: str | os.PathLike | None = None, **settings: Any) -> Training:
        """Train as `localvit train`; afterwards the detector has the weights of the best validation, or the last.

        Args:
            data: Folder of a dataset, whose classes are taken; by default the config's.
            settings: Options of the command: `epochs`, `batch`, `lr`, `imgsz`, `workers`, `device`, `work_dir`,
                `pretrained`, `amp`, `ema`, `resume`, …, and `options`, a dict for `--cfg-options`.

        Raises:
            UserError: As the command reports it.
            KeyboardInterrupt: The training was interrupted, after it has saved what there is.
        """
        start = {} if not self.trained or settings.get("resume") else {"load_from": self._source}
        names = {"data_root": os.fspath(data), "classes": "auto"} if data is not None else {}
        argv = _arguments([self._source], {**start, **settings}, {**self._options, **names})
        try:
            runner = _run("train", argv)
        except Stopped as stop:
            raise KeyboardInterrupt("The training was stopped; resume=True goes on.") from stop
        folder = Path(runner.work_dir)
        unlock_work_dir(folder)
        best = sorted(folder.glob("best_*.pth"), key=os.path.getmtime)
        file = best[-1] if best else newest_for_test(folder)
        curves = {
            name: history.data[0].copy()
            for name, history in runner.message_hub.log_scalars.items()
            if name.startswith(("train/loss", "val/"))
        }
        metrics = {name.removeprefix("val/"): curve[-1] for name, curve in curves.items() if name.startswith("val/")}
        self.__init__(file)  # type: ignore[misc]  # the same object, now of its training's weights
        return Training(folder, metrics, file, curves)

    def val(self, data: str | os.PathLike | None = None, **settings: Any) -> dict[str, float]:
        """Evaluate as `localvit test`, and return the metrics.

        Args:
            data: Folder of a dataset; by default that of the training.
            settings: Options of the command: `batch`, `imgsz`, `workers`, `report`, `show_dir`, `work_dir`, ….
        """
        names = {"data_root": os.fspath(data)} if data is not None else {}
        return _run("test", _arguments([self._weights()], settings, {**self._options, **names}))

    def export(self, out: str | os.PathLike, **settings: Any) -> Path:
        """Export as `localvit export`, and return the file.

        Args:
            out: Ends in .onnx, .xml (OpenVINO), .pt or .pt2.
            settings: Options of the command: `size`, `int8`, `calibration`, ….
        """
        _run("export", _arguments([self._weights()], {"out": os.fspath(out), **settings}, self._options))
        return Path(out)

    def _weights(self) -> str:
        if not self.trained:
            raise ConfigError(f"Detector('{self._source}') has no weights: train() it, or give a checkpoint.")
        return self._source


def _arguments(given: Sequence[str], settings: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return a command line; None and False leave an option out, True gives it without a value."""
    argv = list(given)
    options = {**options, **(settings.get("options") or {})}
    for name, value in settings.items():
        if value is None or value is False or name == "options":
            continue
        several = value if isinstance(value, (list, tuple)) else [] if value is True else [value]
        argv += [f"--{name.replace('_', '-')}", *map(str, several)]
    return [*argv, "--cfg-options", *(f"{key}={value}" for key, value in options.items())] if options else argv


def _run(command: str, argv: Sequence[str]) -> Any:
    """Run a command in this process, return what it returns; raise ConfigError for an unknown option."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module("localvit.arguments").read(command, argv)
    except SystemExit:
        message = said.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(f"{command}: {message}") from None
    # Without what turns errors into exit codes.
    return importlib.import_module("localvit.commands").find(command).__wrapped__(argv)
