"""Small hooks: early stopping, a backbone's own file, broken images, free memory, a dry run."""

from __future__ import annotations

import ctypes
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.runner import BaseLoop, Runner, save_checkpoint
from torch import Tensor

from ..checkpoint.layouts import weights_in
from ..checkpoint.read import load_weights_only
from ..datasets.annotations import MAX_PIXELS
from ..datasets.images import pixel_range_of
from ..datasets.load_image import MAX_BROKEN, LoadImageFromFile
from ..errors import CheckpointError, ConfigError, DataError, NonFiniteError
from ..files import write_text
from .checkpoint_hook import SafeCheckpointHook

BACKBONE_FILE = "backbone.pth"
# The last norm of a classifier, norm3 in Swin; a detector has one on each of its feature maps, and starts them anew.
# Where more stages have one, norms stand in the trunk (Twins-SVT) and the detector keeps all.
_OUT_NORM = re.compile(r"(out_norms\.|norm)\d\.")
_SEEN = ".early_stop.json"  # the validations so far: checkpoints lack the one that follows them
_PAUSE = 120.0  # seconds from one return of free memory to the next


@HOOKS.register_module()
class EarlyStopHook(Hook):
    """Stop after `patience` validations without a new best one, with a final checkpoint and exit code 0.

    The metric is the one that `save_best` of the checkpoint hook names, else the first. With MMEngine's
    EarlyStoppingHook a resumed training would count anew, the metric would have to be named, and the last weights would
    be lost where no checkpoint is due.

    Args:
        patience: Validations without a new best one.
        min_delta: What a new best one has to gain at least.
    """

    priority = "LOWEST"  # after the best checkpoint is saved, and averaged weights are back in their place

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self._seen: list[tuple[int, float]] = []  # iteration and value, larger is better
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Take over the validations up to the iteration at which the training starts."""
        self._training = True
        seen: list[Any] = [[]]
        if dist.is_main_process():
            seen = [_read_scores(Path(runner.work_dir, _SEEN), until=runner.iter)]
        dist.broadcast_object_list(seen)
        self._seen = seen[0]
        if self._is_over():
            runner.train_loop.stop_training = True
            runner.logger.info(
                "Nothing is left to train: this training has stopped early after iteration %d. More patience than "
                "%d, or --without early-stop, goes on with it.",
                self._seen[-1][0],
                self.patience,
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Count, and ask the loop to stop."""
        if not self._training:
            return
        checkpoints = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        metric, sign = _metric_of(checkpoints, metrics or {})
        value = float((metrics or {}).get(metric, math.nan))
        before = [one for one in self._seen if one[0] < runner.iter]  # a validation may be repeated after a kill
        self._seen = [*before, (runner.iter, sign * value if math.isfinite(value) else -math.inf)]
        if dist.is_main_process():
            write_text(Path(runner.work_dir, _SEEN), json.dumps(self._seen))
        if not self._is_over():
            return
        runner.train_loop.stop_training = True
        if checkpoints is not None:
            checkpoints.save_final(runner)
        at, best = self._best()
        runner.logger.info(
            "Stopping early after iteration %d: %s has not improved in %d validations (its best is %.4g, after "
            "iteration %d).",
            runner.iter,
            metric,
            self.patience,
            sign * best,
            at,
        )

    def after_train(self, runner: Runner) -> None:
        """Leave out later validations, which are no part of the training."""
        self._training = False

    def _best(self) -> tuple[int, float]:
        best = self._seen[0]
        for at, value in self._seen[1:]:
            if value > best[1] + self.min_delta:
                best = (at, value)
        return best

    def _is_over(self) -> bool:
        if not self._seen:
            return False
        at = self._best()[0]
        return sum(iteration > at for iteration, _ in self._seen) >= self.patience


def _metric_of(checkpoints: SafeCheckpointHook | None, metrics: dict[str, Any]) -> tuple[str, int]:
    """Return the metric by which a checkpoint is the best, and 1 or -1: whether larger or smaller is better."""
    if checkpoints is not None and checkpoints.save_best and "auto" not in checkpoints.key_indicators:
        return checkpoints.key_indicators[0], -1 if checkpoints.rules[0] == "less" else 1
    name = next(iter(metrics), "the metric")  # none where nothing at all has been found
    return name, -1 if "loss" in name.lower() else 1


def _read_scores(file: Path, until: int) -> list[tuple[int, float]]:
    if until == 0 or not file.is_file():
        return []
    try:
        return [(int(at), float(value)) for at, value in json.loads(file.read_text()) if at <= until]
    except (OSError, ValueError, TypeError):
        return []


@ROOT_HOOKS.register_module()
class BackboneFileHook(Hook):
    """Write the backbone into the work dir at the end of a training, with EMAHook its averaged weights."""

    priority = "LOWEST"  # after the last checkpoint

    def after_run(self, runner: Runner) -> None:
        """Write `backbone.pth`; nothing after a test, or a training that saves no checkpoints."""
        hook = getattr(runner, "checkpoint_hook", None)
        checkpoint = getattr(hook, "last_ckpt", None)
        if checkpoint is None or not dist.is_main_process():
            return
        target = write_backbone(checkpoint, Path(runner.work_dir) / BACKBONE_FILE)
        runner.logger.info("The backbone is in %s: give it to tools/train.py as --pretrained.", target)


def write_backbone(checkpoint: str | Path, target: str | Path) -> Path:
    """Write the backbone's weights alone, without the norm that a classifier has after its last stage only.

    Args:
        checkpoint: What MMEngine saved in a training of a model with a part called `backbone`.
        target: The file to write.

    Returns:
        The file.

    Raises:
        CheckpointError: The checkpoint has no such part.
        OutputError: The file cannot be written.
    """
    content = load_weights_only(checkpoint)
    weights = weights_in(content) or {}
    state = {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    out_norms = {match[0] for name in state if (match := _OUT_NORM.match(name))}
    if len(out_norms) == 1:
        state = {name: tensor for name, tensor in state.items() if not _OUT_NORM.match(name)}
    if not state:
        raise CheckpointError(f"{checkpoint} holds no backbone: give the checkpoint of a classifier or a detector.")
    meta = content.get("meta") or {}
    facts = {"source": Path(checkpoint).name, "epoch": meta.get("epoch"), "iter": meta.get("iter")}
    save_checkpoint({"state_dict": state, "meta": facts}, str(target))
    return Path(target)


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Apply `broken_images`, `max_broken_images`, `max_pixels` and `pixel_range` of the config; `load_config` adds it.

    It acts on the loaded datasets, because the settings are no part of a pipeline: inference builds other transforms
    from that.
    """

    priority = "VERY_HIGH"  # before data workers are started

    def before_run(self, runner: Runner) -> None:
        """Set what every transform that loads images does.

        Raises:
            ConfigError: `pixel_range` has no effect.
        """
        pixel_range = pixel_range_of(runner.cfg.get("pixel_range"))
        self._unusable: dict[str, list[Tensor]] = {}
        for name in ("_train_loop", "_val_loop", "_test_loop"):
            loop = getattr(runner, name)
            if not isinstance(loop, BaseLoop):
                continue
            transforms = list(loading_transforms(loop.dataloader.dataset))
            if pixel_range and not any(transform.imdecode_backend == "cv2" for transform in transforms):
                raise ConfigError(
                    "pixel_range has no effect on images that are not read by LoadImageFromFile of a detector with the "
                    "backend cv2: leave it out."
                )
            for transform in transforms:
                transform.on_broken = runner.cfg.get("broken_images") or "skip"
                transform.max_broken = runner.cfg.get("max_broken_images", MAX_BROKEN)
                transform.max_pixels = runner.cfg.get("max_pixels", MAX_PIXELS)
                transform.pixel_range = pixel_range
                transform.evaluates = name != "_train_loop"
                if transform.evaluates:
                    # In shared memory, where data workers mark them.
                    transform.unusable = torch.zeros(len(loop.dataloader.dataset), dtype=torch.uint8).share_memory_()
                    self._unusable.setdefault(name, []).append(transform.unusable)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Refuse a validation without an image."""
        self._refuse_no_image(runner.val_loop, "_val_loop")

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Refuse a test without an image."""
        self._refuse_no_image(runner.test_loop, "_test_loop")

    def _refuse_no_image(self, loop: BaseLoop, name: str) -> None:
        """Check that there was an image which could be used.

        Raises:
            DataError: There was none.
        """
        marked = self._unusable.get(name)
        if not marked:
            return
        together = torch.stack(marked).int()
        dist.all_reduce(together, "max")  # image by image: to have equal shares, processes repeat some
        count = together.sum()
        total = len(loop.dataloader.dataset)
        if total and int(count) >= total:
            raise DataError(
                f"None of the {total} images could be used, so that the numbers mean nothing: the log says why for "
                "each (`localvit check CONFIG --images` looks at all of them)."
            )


def loading_transforms(node: object) -> Iterator[LoadImageFromFile]:
    """Yield those of a dataset, whatever wraps it, and of transforms in transforms."""
    if isinstance(node, LoadImageFromFile):
        yield node
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from loading_transforms(item)
    else:
        parts = getattr(node, "__dict__", {})
        for name in ("dataset", "datasets", "pipeline", "transforms"):
            if parts.get(name) is not None:
                yield from loading_transforms(parts[name])


class FreeMemoryHook(Hook):
    """Hand free memory of glibc's allocator back to the system every two minutes.

    Sizes of blocks vary with the objects in the images, so the holes between them grow for hundreds of iterations, to
    a multiple of what is in use. MMEngine's EmptyCacheHook does this for GPUs; elsewhere than on Linux nothing is done.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(libc, "malloc_trim", None)
        self._trimmed_at = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Hand memory back where it is time."""
        if self._trim is not None and time.monotonic() - self._trimmed_at > _PAUSE:
            self._trim(0)
            self._trimmed_at = time.monotonic()


class DryRunDone(Exception):
    """Everything has worked; the message says what was seen."""


class DryRunHook(Hook):
    """End a training after its first step, and after one batch of the validation.

    Until then all is as in the real run: data, weights, the optimizer's step.

    Raises:
        DryRunDone: Always, where nothing else is raised before.
        NonFiniteError: The losses of the first batch are not finite.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._started = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at what came out, and end the training."""
        seconds = time.perf_counter() - self._started
        losses = {name: value.item() for name, value in (outputs or {}).items() if name.startswith("loss")}
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteError(
                f"In the first batch {', '.join(broken)} is not finite: look at its images and weights."
            )
        validated = "without validation"
        if runner._val_loop is not None:
            loader = runner.val_dataloader
            runner.model.eval()
            with torch.no_grad():
                found = runner.model.val_step(next(iter(loader)))
            validated = f"a batch of {len(found)} images of the validation"
        size = len(data_batch["inputs"]) if isinstance(data_batch, dict) and "inputs" in data_batch else "?"
        memory = _peak_memory()
        raise DryRunDone(
            f"Everything works: one step with {size} images took {seconds:.1f} s, the first is the slowest "
            f"({runner.max_iters} are planned), {validated} went through"
            f"{f', and {memory / 2**30:.2f} GiB of memory were used at most' if memory else ''}; "
            + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + ". Nothing was written to the work dir."
        )


def _peak_memory() -> int | None:
    """Return the bytes that the GPU, or else the process, has used at most; None where that is not known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
