"""MMEngine's training loops, able to resume in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdet.registry import LOOPS
from mmengine import dist
from mmengine.hooks import EMAHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop

from ..config.utils import registered
from .data_loader import (
    close_workers,
    explain_lost_evaluation,
    explain_lost_workers,
    make_resumable,
    seed_iteration,
)
from .non_finite import StopValidation
from .processes import broadcast_buffers
from .validations import add_validation, begin_validations

_RESTARTS = 3  # of data workers, without a batch in between


class ResumableLoop(BaseLoop):
    """What both loops share: the position in the data, random numbers, and validations.

    All state of a loop is `_epoch`, `_iter` and the two numbers below; the rest follows from the run's seed.
    """

    def __init__(self, runner: Any, dataloader: Any, **settings: Any) -> None:
        super().__init__(runner, dataloader, **settings)
        # MMEngine's loop by iteration has begun a pass already, and persistent workers go on with what they began with.
        close_workers(self.dataloader)
        self.batches = make_resumable(self.dataloader)
        self._pass = 0  # passes over the data that are complete
        self._batch = 0  # batches of the present pass that are done
        self._resumed = False

    @property
    def base_seed(self) -> int:
        """Return the run's seed, the same in all processes."""
        own = self.runner._randomness_cfg.get("diff_rank_seed", False)
        return self.runner.seed - (dist.get_rank() if own else 0)

    def position(self, meta: dict[str, Any]) -> dict[str, int]:
        """Return where in the data a training resumes from a checkpoint with this `meta`."""
        data = {"pass": self._pass, "batch": self._batch + meta["iter"] - self._iter}
        if meta["epoch"] > self._epoch:  # saved at the end of an epoch, before the loop has counted it
            data = {"pass": self._pass + 1, "batch": 0}
        return {**data, "batches": len(self.dataloader), "by_epoch": isinstance(self, EpochBasedTrainLoop)}

    def resume_position(self, meta: dict[str, Any]) -> None:
        """Take over a checkpoint's `meta`, which MMEngine takes epoch and iteration from."""
        self._resumed = True
        batches = len(self.dataloader)
        found = meta.get("position") or self._position_of_mmengine(meta, batches)
        self._pass, self._batch = found["pass"], found["batch"]
        if found["batches"] != batches and self._batch:
            # Another batch size or number of processes: the same share of the images.
            self._batch = round(self._batch * batches / found["batches"])
            self.runner.logger.warning(
                f"An epoch had {found['batches']} batches when the checkpoint was saved and has {batches} now: "
                f"going on after batch {self._batch} of it."
            )
        if isinstance(self, EpochBasedTrainLoop):  # another number of batches in the epochs to come
            done = self._pass * batches + self._batch
            self._max_iters = meta["iter"] + self._max_epochs * batches - done

    def _batches_left(self) -> Iterator[Any]:
        """Yield the batches of this pass that are left, each with the seed of its iteration set.

        Data workers are started again where one was killed.

        Raises:
            ProcessError: They are killed again and again; what there is has been saved.
        """
        restarts, seed = 0, self.base_seed
        while True:
            if self.batches is not None:
                self.batches.seek(seed, self._pass, self._batch)
            elif self._batch:
                self.runner.logger.warning("The data cannot be entered in the middle of an epoch: it begins anew.")
            iterator = None
            while True:
                try:
                    iterator = iterator or iter(self.dataloader)
                    data_batch = next(iterator)
                except StopIteration:
                    return
                except Exception as error:
                    iterator = iterator or self.dataloader._iterator  # of persistent workers: one died between passes
                    lost = explain_lost_workers(iterator, error)
                    if lost is None:
                        raise
                    if self.batches is None or restarts == _RESTARTS:
                        self.runner.give_up(lost, error)
                    restarts += 1
                    self.runner.logger.warning(  # not with arguments: MMEngine shows equal formats once
                        f"{lost}. After iteration {self._iter} the workers are started again ({restarts} of "
                        f"{_RESTARTS} times); no image is skipped."
                    )
                    close_workers(self.dataloader, iterator)
                    break
                restarts = 0
                seed_iteration(seed, self._iter)
                self.runner.guard.remember()
                yield data_batch

    def _validate(self) -> None:
        broadcast_buffers(self.runner)
        try:
            metrics = self.runner.val_loop.run()
        except StopValidation as stop:
            self._leave_validation()
            self.runner.stop(stop.args[0])
        except RuntimeError as error:
            lost = explain_lost_evaluation(error)
            if lost is None:
                raise
            self._leave_validation()
            self.runner.give_up(lost, error)
        else:
            add_validation(self.runner, metrics, complete=True)

    def _leave_validation(self) -> None:
        """Bring back the training's own weights where a validation has averages in their place."""
        for hook in self.runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(self.runner)

    def _catch_up(self) -> None:
        """Validate what was saved and not validated before the training was stopped."""
        points = begin_validations(self.runner)
        done = any(one["complete"] and one["iteration"] == self._iter for one in points)
        if self._resumed and not done and self._validation_is_due():
            self.runner.logger.info("The validation after iteration %d was not finished: running it.", self._iter)
            self._validate()


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's `EpochBasedTrainLoop`; arguments as there."""

    def run(self) -> Any:
        self.runner.call_hook("before_train")
        self._catch_up()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validation_is_due():
                self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for data_batch in self._batches_left():
            self.run_iter(self._batch, data_batch)
            self._batch += 1
            self.runner.between_iterations()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._pass, self._batch = self._epoch, 0

    def _validation_is_due(self) -> bool:
        if self.runner.val_loop is None or self._batch or self._epoch < max(1, self.val_begin):
            return False
        return self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs

    @staticmethod
    def _position_of_mmengine(meta: dict[str, Any], batches: int) -> dict[str, int]:
        """Return the position in a checkpoint of MMEngine's own loop."""
        batch = meta["iter"] - meta["epoch"] * batches
        return {"pass": meta["epoch"], "batch": batch if 0 <= batch <= batches else 0, "batches": batches}


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """MMEngine's `IterBasedTrainLoop`; arguments as there."""

    def __init__(self, runner: Any, dataloader: Any, **settings: Any) -> None:
        super().__init__(runner, dataloader, **settings)
        self.dataloader_iterator = None  # it has begun before it is known where

    def run(self) -> Any:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self._catch_up()
        stream = self._stream()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(stream))
            self._batch += 1
            self.runner.between_iterations()
            self._decide_current_val_interval()
            if self._validation_is_due():
                self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _stream(self) -> Iterator[Any]:
        while True:
            yield from self._batches_left()
            self._pass, self._batch = self._pass + 1, 0

    def _validation_is_due(self) -> bool:
        if self.runner.val_loop is None or self._iter < max(1, self.val_begin):
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters

    @staticmethod
    def _position_of_mmengine(meta: dict[str, Any], batches: int) -> dict[str, int]:
        """Return the position in a checkpoint of MMEngine's own loop, with its `InfiniteSampler`."""
        return {"pass": 0, "batch": meta["iter"], "batches": batches}


_OURS: dict[type | None, type[BaseLoop]] = {
    EpochBasedTrainLoop: ResumableEpochLoop,
    IterBasedTrainLoop: ResumableIterLoop,
}


def resumable(loop: Any) -> Any:
    """Return the settings of a training's loop, with ours in the place of MMEngine's."""
    if not isinstance(loop, dict):
        return loop
    settings = dict(loop)
    if "type" not in settings:
        settings["type"] = EpochBasedTrainLoop if settings.pop("by_epoch", True) else IterBasedTrainLoop
    return {**settings, "type": _OURS.get(registered(LOOPS, settings), settings["type"])}
