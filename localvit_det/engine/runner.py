"""MMEngine's Runner for trainings that are left alone for days."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path
from typing import Any, NoReturn

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.runner import ConfigType
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint.baselines import published_weights
from ..checkpoint.read import load_weights_only
from ..config.load import complete_for_runner
from ..config.short_settings import explain_unfit_epochs, fit_warm_up
from ..config.utils import registered
from ..errors import NonFiniteError, OutputError, ProcessError, UserError, first_line
from ..evaluation.coco import prints_logged
from ..files import DISK_ERRORS, write_text
from ..memory import without_collecting_old
from .checkpoint_hook import SafeCheckpointHook
from .data_loader import batch_size_of, close_workers, guard_workers
from .loggers import Histories, ProgressBarHook, quiet_screen
from .loops import ResumableEpochLoop, ResumableLoop, resumable
from .non_finite import FiniteGuard, GuardHook, Rollback, scale_learning_rates
from .optim import accumulative_counts, optim_wrappers
from .processes import (
    DistributedRunner,
    FreeMemoryHook,
    SignalWatch,
    Stopped,
    all_reduce_max,
    broadcast_buffers,
    exchange_addresses,
    explain_lost_process,
    lock_work_dir,
    unlock_work_dir,
)
from .reporting import CurvesHook, TrainingReportHook, explain_no_detections
from .resume import ConfiguredState, newest_checkpoint
from .validations import FusedTestLoop, FusedValLoop, fused_loop

_REPORTING = (LoggerHook, DetVisualizationHook, CurvesHook, ProgressBarHook, TrainingReportHook)
START = "start.json"  # in the folder of a log: after which iteration this start has gone on


@RUNNERS.register_module()
class ReliableRunner(DistributedRunner):
    """Train as MMEngine's Runner does, and lose nothing when stopped, killed or out of disk space.

    docs/training.md has the cases. What protects is not left to `custom_hooks`, which a config may replace.
    """

    # State of MMEngine's runner that has no public name: what to load and how, whether that is done, and loops, which
    # are configs until they are needed; `train_loop` and `val_loop` would build them.
    _load_from: str | None
    _resume: bool
    _has_loaded: bool
    _train_loop: BaseLoop | dict | None
    _val_loop: BaseLoop | dict | None

    _hooks: list[Hook]

    _signals: SignalWatch | None = None
    configured: ConfiguredState | None = None  # optimizer and schedules, before a checkpoint is loaded

    @classmethod
    def from_cfg(cls, cfg: ConfigType) -> Runner:
        """Build the runner of a config.

        Raises:
            ConfigError: It was not completed, and says what only `load_config` does.
        """
        return super().from_cfg(complete_for_runner(cfg))

    @functools.cached_property
    def _active_hooks(self) -> dict[str, tuple[list[Hook], list[Hook]]]:
        return {}  # by points, each with the hooks that there were

    @functools.cached_property
    def guard(self) -> FiniteGuard:
        """Return what checks losses and gradients; set up by `non_finite` at the config's top level."""
        return FiniteGuard(self, **(self.cfg.get("non_finite") or {}))

    def train(self) -> nn.Module:
        """Train.

        Raises:
            UserError: Something that the user has to fix has ended the training.
            Stopped: A signal has; everything is saved.
        """
        if dist.is_main_process():
            lock_work_dir(self.work_dir)
        try:
            with SignalWatch() as self._signals, without_collecting_old():
                return self._train()
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise OutputError(
                    f"The training cannot write to {error.filename or self.work_dir} ({error.strerror}): make room; "
                    "the checkpoints in the work dir are whole, and --resume goes on from the newest."
                ) from error
            raise
        finally:
            for loop in (self._train_loop, self._val_loop):
                if isinstance(loop, BaseLoop):
                    close_workers(loop.dataloader)
            unlock_work_dir(self.work_dir)

    def _train(self) -> nn.Module:
        run = super().train
        exchange_addresses()
        try:
            while True:
                try:
                    return run()
                except Rollback as reason:
                    self._roll_back(str(reason))
                    run = self._continue
        except Exception as error:
            lost = explain_lost_process(error)
            if lost is None:
                raise
            sentence = f"{lost}, so process {self.rank} ends, too: --resume goes on from the newest checkpoint."
            if not dist.is_main_process():  # whose errors the tools show
                self.logger.error(sentence)
            raise ProcessError(sentence) from error

    # ---- losses that are not finite

    def _roll_back(self, reason: str) -> None:
        checkpoint = newest_checkpoint(self)
        if checkpoint is None:
            raise NonFiniteError(
                f"{reason}, and there is no checkpoint yet to go back to: lower the learning rate, or look at these "
                "images."
            )
        factor = self.guard.count_rollback(checkpoint)
        self._resume, self._load_from = True, checkpoint
        self.optim_wrapper.zero_grad()
        self.resume(checkpoint)
        scale_learning_rates(self, factor)
        self.guard.lr_factor *= factor
        self.logger.warning(
            f"{reason}: going back to {Path(checkpoint).name}, with {factor:g} times its learning rate."
        )

    def _continue(self) -> nn.Module:
        """Run the second half of MMEngine's `train`, for a runner that is built already."""
        self.optim_wrapper.initialize_count_status(self.model, self.iter, self.max_iters)
        model = self.train_loop.run()
        self.call_hook("after_run")
        return model

    # ---- hooks that only report

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; one that only reports may fail (a full disk, a folder that was removed, a lost server)."""
        for hook in self._hooks_at(fn_name):
            try:
                getattr(hook, fn_name)(self, **kwargs)
            except UserError:
                raise
            except Exception as error:
                if not isinstance(hook, _REPORTING):
                    raise
                # Not with arguments: MMEngine shows warnings of equal formats once.
                self.logger.warning(
                    f"{type(hook).__name__} could not report ({type(error).__name__}: {first_line(error)}); the work "
                    "goes on without it."
                )

    def _hooks_at(self, point: str) -> list[Hook]:
        """Return the hooks that do something at a point: in an iteration most do not, and calling them adds up."""
        hooks, active = self._active_hooks.get(point, ([], []))
        if hooks != self._hooks:
            when, *_, what = point.split("_")
            names = point, f"_{when}_{what}"  # the second is for training, validation and test
            active = [hook for hook in self._hooks if any(_is_own(hook, name) for name in names)]
            self._active_hooks[point] = [*self._hooks], active
        return active

    # ---- stopping

    def between_iterations(self) -> None:
        """Save and stop where a signal asks for it, and save where `every_minutes` have passed.

        Raises:
            Stopped: A signal has asked for it, in any process.
        """
        hook = self.checkpoint_hook
        own = self._signals.received if self._signals else 0
        received, due = all_reduce_max(own, int(hook is not None and hook.is_due()))
        if received:
            self.stop(received)
        if due and hook is not None:
            path = hook.save_interim(self)
            self.logger.info("Saved %s: %g minutes have passed.", path.name, hook.every_minutes)

    def stop(self, received: int) -> NoReturn:
        """Save what there is and end, because of a signal; all processes call it together.

        Raises:
            Stopped: Always.
        """
        saved = self._save_interim()
        # A signal to torchrun ends all processes as soon as one has: none may go while the first one still saves.
        dist.barrier()
        name = signal.Signals(received).name
        self.logger.info("%s: stopped after iteration %d; %s.", name, self.iter, saved)
        raise Stopped(128 + received)

    def give_up(self, reason: str, error: BaseException) -> NoReturn:
        """Save what there is and end, because of something that only the user can change.

        Raises:
            ProcessError: Always.
        """
        # The other processes of a run know nothing of it, and saving takes all of them.
        saved = self._save_interim() if self.world_size == 1 else "--resume goes on from the newest checkpoint"
        raise ProcessError(f"{reason}; stopped after iteration {self.iter}: {saved}.") from error

    def _save_interim(self) -> str:
        """Save, unless that has been done after this iteration; return where, to stand in a sentence."""
        hook = self.checkpoint_hook
        if hook is None:
            return "no checkpoint could be saved, since no hook of the config is a CheckpointHook of MMEngine"
        done = hook.saved_iteration == self.iter
        saved = f"{hook.last_ckpt} has it" if done else f"saved {hook.save_interim(self)}"
        return f"{saved}; --resume goes on from there"

    # ---- what takes the place of MMEngine's parts

    def build_logger(self, *args: Any, **settings: Any) -> MMLogger:
        """Build the logger; what `ScreenFilter` names goes to the file only, unless the config says `verbose`."""
        logger = super().build_logger(*args, **settings)
        if not self.cfg.get("verbose"):
            hooks = (hook for hook in self.cfg.get("custom_hooks") or () if isinstance(hook, dict))
            quiet_screen(logger, reported=any(registered(HOOKS, hook) is TrainingReportHook for hook in hooks))
        return logger

    def build_message_hub(self, message_hub: dict | None = None) -> MessageHub:
        """Build what keeps the numbers of a run, with histories to which adding one always costs the same."""
        hub = super().build_message_hub(message_hub)
        hub._log_scalars = Histories(hub._log_scalars)
        return hub

    def register_default_hooks(self, hooks: dict[str, Hook | dict] | None = None) -> None:
        """Register the default hooks, with `SafeCheckpointHook` in the place of MMEngine's."""
        hooks = dict(hooks or {})
        hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
        for name, hook in hooks.items():
            if isinstance(hook, dict) and registered(HOOKS, hook) is CheckpointHook:
                hooks[name] = {**hook, "type": "SafeCheckpointHook", "_scope_": "mmdet"}
        super().register_default_hooks(hooks)
        self.register_hook(GuardHook())
        self.register_hook(FreeMemoryHook())

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop, with those that can resume in the place of MMEngine's."""
        built = super().build_train_loop(resumable(loop))
        if not isinstance(built, ResumableLoop):
            self.logger.warning(
                f"The training's loop is {type(built).__name__}, which may repeat or leave out a part of an epoch "
                "where it is resumed in the middle: train_cfg.type='EpochBasedTrainLoop' resumes exactly."
            )
        return built

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; on a fused copy of the model where FusedEvaluationHook asks for it."""
        return super().build_val_loop(fused_loop(loop, FusedValLoop, self.hooks))

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; on a fused copy of the model where FusedEvaluationHook asks for it."""
        return super().build_test_loop(fused_loop(loop, FusedTestLoop, self.hooks))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer's wrapper, with the guard before its steps."""
        built = super().build_optim_wrapper(optim_wrapper)
        self.guard.watch(built)
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper | OptimWrapperDict, auto_scale_lr: dict | None = None) -> None:
        """Scale learning rates with the batch of an optimizer's step; MMEngine forgets accumulated ones."""
        if not auto_scale_lr or not auto_scale_lr.get("enable"):
            return
        size, base = batch_size_of(self.train_dataloader), auto_scale_lr["base_batch_size"]
        for wrapper in optim_wrappers(optim_wrapper):
            batch = size * self.world_size * accumulative_counts(wrapper)
            factor = batch / base
            self.logger.info(f"Learning rates are scaled by {factor:g}, from a batch of {base} to one of {batch}.")
            for group in wrapper.param_groups:  # with the one of MMEngine's `base_lr`, which its logs show
                group["lr"] *= factor

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules of the learning rate, with a warm-up that is shorter than the training."""
        # A dict without a type has the schedules of each optimizer.
        several = [scheduler] if isinstance(scheduler, dict) and "type" in scheduler else scheduler
        if isinstance(several, (list, tuple)) and all(isinstance(one, dict) for one in several):
            by_epoch, hooks = isinstance(self.train_loop, ResumableEpochLoop), self.cfg.get("custom_hooks") or ()
            if by_epoch and (unfit := explain_unfit_epochs(several, self.max_epochs, hooks)):
                self.logger.warning(unfit)
            if self.cfg.get("fit_warmup", True):
                scheduler, change = fit_warm_up(several, self.max_iters)
                if change:
                    self.logger.info(change)
        built = super().build_param_scheduler(scheduler)
        # The loop has the right order. MMEngine warns of another one where the first iteration's step is skipped, or
        # waits for accumulated gradients.
        for wrapper in optim_wrappers(self.optim_wrapper):
            wrapper._global_step = 0
        return built

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader, with workers that never outlive their process; datasets of COCO print when they are built."""
        with prints_logged():
            return guard_workers(Runner.build_dataloader(dataloader, seed, diff_rank_seed))

    # ---- checkpoints

    @property
    def checkpoint_hook(self) -> SafeCheckpointHook | None:
        """Return the hook that saves, None where the config has switched it off."""
        return next((hook for hook in self.hooks if isinstance(hook, SafeCheckpointHook)), None)

    def _init_model_weights(self) -> None:
        with published_weights(self.model):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Load what was asked for; `resume` without a file finds the newest usable checkpoint.

        Raises:
            CheckpointError: There are checkpoints in the work dir, and none can be used.
        """
        if not self._has_loaded and self._resume and self._load_from is None:
            self._load_from = newest_checkpoint(self)
            self._resume = self._load_from is not None
        training = isinstance(self._train_loop, BaseLoop)
        if training and self.configured is None:
            self.configured = ConfiguredState(self)
        with prints_logged():
            super().load_or_resume()
        if training:
            super().dump_config()  # only now is it certain that the training starts
            # Checkpoints have the same text, not laid out for readers: that takes 0.15 s each time.
            self.cfg.__dict__["_format_python_code"] = False
            if dist.is_main_process():
                write_text(Path(self.log_dir, START), json.dumps({"iteration": self.iter}))

    def resume(self, filename: str, *args: Any, **settings: Any) -> None:
        """Resume as MMEngine does, with the rates and schedules of the config: see `ConfiguredState`."""
        if self.configured is not None:
            self.configured.compare(self, load_weights_only(filename, mmap=True), filename)
        own = {key: value for key, value in self.message_hub.runtime_info.items() if key == "cfg"}
        super().resume(filename, *args, **settings)
        self.message_hub.update_info_dict(own)
        if self.configured is not None:
            self.configured.apply(self)

    def dump_config(self) -> None:
        """Leave the work dir's config alone, which is the training's: tests have one in the folder of their log."""

    # ---- tests

    def test(self) -> dict:
        """Test; all processes with the same running statistics."""
        broadcast_buffers(self)
        metrics = super().test()
        if any(getattr(metric, "detections", None) == 0 for metric in self.test_evaluator.metrics):
            self.logger.warning(explain_no_detections(self))
        return metrics


def _is_own(hook: Hook, name: str) -> bool:
    """Whether a hook has a method other than `Hook`'s, which does nothing."""
    method = getattr(hook, name, None)
    return getattr(method, "__func__", method) is not getattr(Hook, name, None)
