"""Run a trained detector: `Detector("file.pth").predict("folder")`."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope

from ..checkpoint.config_text import to_json
from ..checkpoint.exported import is_exported
from ..checkpoint.loading import load_file
from ..checkpoint.read import METADATA, classes_in
from ..checkpoint.safe_config import take, without_pretrained
from ..checkpoint.search import checkpoint_file
from ..config.load import load_config, one_line
from ..config.model import heads_with_classes
from ..config.pipelines import SCORE, image_pipeline, prepare
from ..config.run import find_run
from ..config.utils import find_datasets, registered
from ..config_names import config_names, find_config
from ..errors import CheckpointError, ConfigError, DataError, UserError, did_you_mean, shortened
from ..export.runtime import ExportedDetector
from ..fused import fuse_detector
from ..hub import WEIGHTS, HubFiles, HubModel, register_reader
from .result import Frame, Result, cut, join
from .sources import Source, Sources
from .workflows import Workflows

_LOG = logging.getLogger("localvit_det")  # reports how a checkpoint was loaded at the level INFO


class Detector(Workflows, HubModel):
    """A detector with its weights, ready to find objects.

    Args:
        checkpoint: A published file, a training's checkpoint, a work dir, whose newest checkpoint is taken, or an
            exported model. Or, to `train` it, a config by its file or name; 'shuffle_t' is Mask R-CNN with it.
        config: A config file, or the name of one that comes with the package; by default the one in the checkpoint.
        device: Where it runs, 'cpu' or 'cuda:0'; by default a GPU where PyTorch finds one.
        fuse: Run the fused form: the same numbers, faster on CPUs.
        options: Changes of the config, by dotted keys.
        trusted: Take the whole config in the checkpoint, which may import and name code of others, and open exported
            models that are programs (.pt, .pt2): see the README on safety.

    Raises:
        UserError: Something is missing, broken, or does not fit; the message is one sentence.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        config: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        fuse: bool = True,
        options: Mapping[str, Any] | None = None,
        trusted: bool = False,
    ) -> None:
        untrained = config_named(checkpoint) if config is None else None
        self.trained, checkpoint = untrained is None, untrained or checkpoint
        file = checkpoint_file(checkpoint)
        self._file, self.exported = file, is_exported(file)
        self._source, self._options = os.fspath(checkpoint), dict(options or {})
        run = find_run(checkpoint)
        # The config in a work dir has the options of its training in it.
        started_with = run.over(self._options, of_its_classes=True) if run and config else self._options
        self.config = load_config(os.fspath(config or checkpoint), started_with, trusted, data=False)
        if run is not None:
            run.check(self.config, self._options.keys(), ("model",))
        self.device = _choose_device(device, self.exported)
        init_default_scope(self.config.get("default_scope") or "mmdet")
        self.model: BaseModel | ExportedDetector
        with _described_by(config or file, "model"):
            if self.exported:
                if self.device.type != "cpu":
                    raise ConfigError(
                        f"{file} is run on a CPU here: leave the device {self.device} out, or give the checkpoint."
                    )
                self.model = ExportedDetector(file, trusted=trusted)
                self.classes, size = self.model.info.classes, self.model.info.size
            else:
                self.model, meta = _build_model(self.config, file if self.trained else None, self.device)
                self.classes, size = _classes(meta, self.config), None
        with _described_by(config or file, "test pipeline"):
            self._pipeline = image_pipeline(self.config, size)
        self.fused = fuse or self.exported
        if fuse and not self.exported:
            fuse_detector(self.model)
        self._lock = threading.Lock()
        # Bounds that heads have, by the same name in all of MMDetection.
        settings = [getattr(module, "test_cfg", None) for module in self.model.modules()]
        self._bounds = [(one, one["score_thr"]) for one in settings if isinstance(one, dict) and "score_thr" in one]

    def predict(
        self,
        source: Source | Iterable[Source] | Sources,
        score: float = SCORE,
        batch_size: int | None = None,
        classes: Sequence[str | int] | None = None,
        max_det: int | None = None,
        tile: int | None = None,
    ) -> Iterator[Result]:
        """Find objects, one image after the other.

        Args:
            source: An image or video file, a folder, a glob, an https address, the number of a webcam, an array
                (H×W×3, uint8, BGR), an image of PIL, or a list or generator of these. Of several, one that
                cannot be used is logged and left out; `Sources.left_out` has them all.
            score: Leave out objects with lower scores; the config's own bound (`score_thr`) holds, too.
            batch_size: Images of equal sizes that run together; by default 1 on a CPU and 8 on a GPU.
            classes: Names or numbers of the classes to keep; by default all.
            max_det: Keep so many objects of an image at most, those with the highest scores.
            tile: Look at each image in overlapping tiles of so many pixels as well, and join what is found.

        Yields:
            A result for each image or frame, in order.

        Raises:
            ConfigError: It is a segmentor; or the score, the batch size, a class, the number of objects or the tile is
                none.
            DataError: A source is missing or empty, which is said at once, or the only one cannot be used.
        """
        self._weights()
        if self.config.get("default_scope") == "mmseg":
            raise ConfigError(f"{self._source} is a segmentor, which finds no objects: run it by `localvit test`.")
        sources = source if isinstance(source, Sources) else Sources(source)
        if not isinstance(score, Real) or not 0 <= score <= 1:
            raise ConfigError(f"The score {score} is none: give a number from 0 to 1.")
        if batch_size is None:
            batch_size = 1 if self.device.type == "cpu" or sources.live else 8
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ConfigError(f"The batch size {batch_size} makes no sense: give a whole number from 1 on.")
        for name, value, least in (("max_det", max_det, 1), ("tile", tile, 32)):
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise ConfigError(f"{name}={value} makes no sense: give a whole number from {least} on.")
        labels = None if classes is None else [self._label(one) for one in classes]
        if sources.max_pixels is None:
            sources.max_pixels = self.config.get("max_pixels")
        if sources.pixel_range is None:
            sources.pixel_range = self.config.get("pixel_range")
        frames, size = iter(sources), int(batch_size)
        if tile is None:
            results = self._results(frames, sources, float(score), size)
        else:
            results = self._tiled(frames, sources, float(score), size, int(tile))
        return results if labels is None and max_det is None else (one.keep(labels, max_det) for one in results)

    def _label(self, name: str | int) -> int:
        text = str(name)
        if text in self.classes:
            return self.classes.index(text)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        raise ConfigError(
            f"The detector has no class {text}{did_you_mean(text, self.classes)}: its classes are "
            f"{shortened(self.classes, 10)}."
        )

    def __call__(self, source: Source, score: float = SCORE) -> Result:
        """Return the result of a single image; raise DataError where there is none."""
        result = next(self.predict(source, score, batch_size=1), None)
        if result is None:
            raise DataError("There is no image to look at: give one.")
        return result

    def hub_files(self) -> HubFiles:
        """Return what `save_pretrained` and `push_to_hub` write: the weights as they are before `fuse`.

        Raises:
            ConfigError: It is an exported model, or its config has more than a file of others may have.
        """
        self._weights()
        if self.exported:
            raise ConfigError(f"{self._file} is an exported model: give the checkpoint that it was made from.")
        try:
            config = take(self.config.to_dict(), {"classes": self.classes})
        except ValueError as error:
            raise ConfigError(f"The detector's config would be refused by readers: {error}.") from error
        weights = _build_model(self.config, self._file, torch.device("cpu"))[0].state_dict()
        meta = {"cfg": to_json(config), "dataset_meta": {"classes": self.classes}}
        model = config["model"]
        facts = {"type": model["type"], "backbone": model.get("backbone"), "classes": self.classes}
        title = f"{model['type']} with {model['backbone']['type']}" if "backbone" in model else model["type"]
        about = f"A detector of localvit_det; finds {', '.join(self.classes)}."
        return HubFiles(weights, facts, title, about, "object-detection", {METADATA: json.dumps(meta)})

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: all but the lock."""
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a copy's state, with a lock of its own."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _tiled(
        self, frames: Iterator[Frame], sources: Sources, score: float, batch_size: int, size: int
    ) -> Iterator[Result]:
        for frame in frames:
            tiles = list(cut(frame, size))
            found = list(self._results(iter(tiles), sources, score, batch_size))
            if len(found) == len(tiles):  # else the image has been left out
                yield join(frame, found)

    def _results(self, frames: Iterator[Frame], sources: Sources, score: float, batch_size: int) -> Iterator[Result]:
        batch: list[tuple[Frame, dict]] = []
        while True:
            try:
                frame = next(frames, None)
            except BaseException:  # Ctrl-C, too: what has been read is not lost
                yield from self._run(batch, score, sources)
                raise
            if frame is None:
                break
            try:
                prepared = prepare(self._pipeline, frame.image, frame.source)
            # Resizing has many reasons to fail, all of them the image's: two pixels of height become none.
            except Exception as error:
                sources.cannot_process(frame, error, "does not pass the test pipeline")
                continue
            # Images of other sizes would be padded, which changes what is found in them a little.
            if batch and (len(batch) == batch_size or batch[0][1]["inputs"].shape != prepared["inputs"].shape):
                ready, batch = batch, []
                yield from self._run(ready, score, sources)
            batch.append((frame, prepared))
        yield from self._run(batch, score, sources)

    def _run(self, batch: list[tuple[Frame, dict]], score: float, sources: Sources) -> Iterator[Result]:
        found: Iterable[Result]
        try:
            found = self._find(batch, score) if batch else []
        except Exception as error:
            _LOG.info("A batch of %d images failed.", len(batch), exc_info=True)
            if len(batch) == 1:
                sources.cannot_process(batch[0][0], error, "makes the detector fail")
                return
            # The others are not to blame.
            found = (result for one in batch for result in self._run([one], score, sources))
        yield from found

    def _find(self, batch: list[tuple[Frame, dict]], score: float) -> list[Result]:
        data = {key: [prepared[key] for _, prepared in batch] for key in ("inputs", "data_samples")}
        # Heads have their bound as a setting, which other threads with other scores would change in the middle.
        with self._lock, torch.no_grad():
            try:
                for settings, bound in self._bounds:
                    settings["score_thr"] = max(bound, score)  # else masks of what is left out would be made
                samples = self.model.test_step(data)
            finally:
                for settings, bound in self._bounds:
                    settings["score_thr"] = bound
        return [self._result(frame, sample, score) for (frame, _), sample in zip(batch, samples, strict=True)]

    def _result(self, frame: Frame, sample: DetDataSample, score: float) -> Result:
        found = sample.pred_instances.cpu()
        found = found[found.scores >= score]
        found = found[found.scores.argsort(descending=True, stable=True)]
        masks = found.masks.numpy().astype(bool, copy=False) if "masks" in found else None
        boxes, scores, labels = (found[key].numpy() for key in ("bboxes", "scores", "labels"))
        return Result(frame, boxes.astype(np.float32, copy=False), scores, labels, masks, self.classes)


@register_reader(Detector)
def _read_hub_folder(cls: type[Detector], folder: Path, **options: Any) -> Detector:
    """Open a folder of `save_pretrained`: the weights' own metadata have the config."""
    return cls(folder / WEIGHTS, **options)


def config_named(name: str | os.PathLike) -> str | None:
    """Return the config that is meant where no weights are: its file, its name, or `shuffle_t` for Mask R-CNN's."""
    text = os.fspath(name)
    if os.path.isdir(text) or (os.path.exists(text) and not text.endswith(".py")):
        return None
    short = f"mask_rcnn_{text}_coco"
    found = short if short in config_names() else text
    return found if find_config(found).is_file() else None


def _choose_device(device: str | torch.device | None, exported: bool) -> torch.device:
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() and not exported else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device)
    # Whatever a driver says, the device cannot be used.
    except Exception as error:
        text = " ".join(str(error).split())[:120]
        raise ConfigError(f"The device {device} cannot be used here ({text}): leave it out, or say cpu.") from error
    return device


@contextmanager
def _described_by(file: object, part: str) -> Iterator[None]:
    """Raise what a constructor raises as a user's error: its arguments come from a file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The {part} that {file} describes cannot be built ({one_line(error)}): give another config."
        ) from error


def _build_model(cfg: Config, file: str | os.PathLike | None, device: torch.device) -> tuple[BaseModel, dict[str, Any]]:
    """Return the model in eval mode, with a checkpoint's weights or random ones, and what the file says of itself."""
    cfg.model = without_pretrained(cfg.model)  # the checkpoint has the weights: nothing else is read or downloaded
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if not hasattr(model, "test_step"):
        raise ConfigError(f"The config's model is a {type(model).__name__}, which finds no objects: name a detector's.")
    content = load_file(model, file, logger=_LOG) if file is not None else {}
    return model.to(device).eval(), content.get("meta") or {}


def _classes(meta: Mapping[str, Any], cfg: Config) -> tuple[str, ...]:
    """Return the names of the classes: as the checkpoint says, else the config, else the class of its dataset."""
    counts = {node[key] for _, node, key in heads_with_classes(cfg)}
    dataset = next((one for _, one in find_datasets(cfg, "test")), {})
    named = (dataset.get("metainfo") or {}).get("classes")
    named = named or getattr(registered(DATASETS, dataset), "METAINFO", {}).get("classes")
    classes = classes_in({"meta": meta}) or cfg.get("classes") or named
    if classes is None:
        classes = [f"class {index}" for index in range(max(counts, default=0))]
    classes = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
    if counts and len(classes) not in counts:
        raise CheckpointError(
            f"The checkpoint names {len(classes)} classes and the config's heads have {sorted(counts)}: give the "
            "config that it was trained with."
        )
    return classes
