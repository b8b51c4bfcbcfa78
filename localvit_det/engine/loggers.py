"""What is shown while a training runs, and where else it is logged: the screen, a progress bar, histories, W&B, MLflow.

The backends are MMEngine's without what surprises: uploads of code, a folder of files that MLflow 3 refuses, servers
whose loss ends a training. MMEngine has no bar; its log alone would leave a CPU's user waiting for the first line.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import HOOKS, VISBACKENDS
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend, WandbVisBackend
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config.utils import walk
from ..errors import ConfigError, first_line

PROJECT = "localvit_det"
_GIVEN_UP = 3  # failures in a row after which nothing more is sent
_LOGGED_STEPS = (1, 2, 10)
_FIRST_PLACES = 64  # of a history
_NOISE = (
    "paramwise_options --",  # a line for each parameter
    "Hooks will be executed in the following order",
    "Config:\n",
    # notes of MMEngine to itself
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "Distributed training is not used, all SyncBatchNorm",
    # what is said in other words: the table of a checkpoint, `Training:` and `Saved:`
    "Load checkpoint from",
    "Loads checkpoint by",
    "Learning rates are scaled by",
    "Checkpoints will be saved to",
    "Exp name:",
    "Saving checkpoint at",
    # pycocotools, of each file and each metric
    *("loading annotations into memory", "Done (t=", "creating index", "index created", "Evaluating "),
    *(
        "COCOeval_opt",
        "Running per image evaluation",
        "Evaluate annotation type",
        "DONE (t=",
        "Accumulating evaluation results",
    ),
)
# What `TrainingReportHook` has in its lines and its table.
_RESULTS = re.compile(
    r" Average (Precision|Recall) |\w+_mAP_copypaste:|(Epoch\((val|test)\)|The best checkpoint) .*_mAP"
)


class ScreenFilter(logging.Filter):
    """Keep off the screen what only the log file needs to have, which has all.

    Left out are MMEngine's long lists (settings of each parameter, hooks, config, build flags), and what it and
    pycocotools say of each step; also other lines with results where `TrainingReportHook` has `reported` them.
    """

    def __init__(self, reported: bool) -> None:
        super().__init__()
        self._reported = reported

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith(_NOISE) or "\nSystem environment:" in message:
            return False
        return not (self._reported and _RESULTS.match(message))


def quiet_screen(logger: logging.Logger, reported: bool) -> None:
    """Add `ScreenFilter` to the handlers that write to the screen."""
    for handler in logger.handlers:
        on_screen = type(handler) is logging.StreamHandler
        if on_screen and not any(isinstance(one, ScreenFilter) for one in handler.filters):
            handler.addFilter(ScreenFilter(reported))


class GrowingHistory(HistoryBuffer):
    """MMEngine's history of one number, whose arrays double where they are full; copied or pickled it is MMEngine's.

    That one copies all that it has at each new number: after 90,000 iterations this takes longer than everything else
    between two iterations. What `data` has returned once stays as it is: nothing is written over.
    """

    def __init__(self, history: HistoryBuffer) -> None:
        self.max_length = history.max_length
        self._set_default_statistics()
        self._places = np.array(history.data, float)  # 2×N: numbers and counts
        self._log_history, self._count_history = self._places
        self._end = len(self._log_history)

    def update(self, log_val: int | float, count: int = 1) -> None:
        """Add a number; of more than `max_length` the oldest is left out."""
        if self._end == self._places.shape[1]:
            kept = np.stack(self.data)
            self._end = kept.shape[1]
            self._places = np.empty((2, max(_FIRST_PLACES, 2 * self._end)))
            self._places[:, : self._end] = kept
        self._places[:, self._end] = log_val, count
        self._end += 1
        begin = self._end - min(len(self._log_history) + 1, self.max_length)
        self._log_history, self._count_history = self._places[:, begin : self._end]

    def __reduce__(self) -> tuple[Any, ...]:
        return HistoryBuffer, (*self.data, self.max_length)


class Histories(OrderedDict[str, HistoryBuffer]):
    """All numbers of a run by name, in the place of the dictionary in MMEngine's `MessageHub`."""

    def __setitem__(self, name: str, history: HistoryBuffer) -> None:
        super().__setitem__(name, GrowingHistory(history))


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show a bar for training, validation and test if stderr is a terminal.

    The bar of the training spans all iterations, so that its time left is that of the whole training
    (validations not counted). There is only ever one bar; it goes when its loop ends. Without a terminal the first
    steps are logged instead: on a CPU the log's own first line may be minutes away.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._redirection = ExitStack()
        self._steps, self._started = 0, 0.0  # since the training, a validation or a test has begun

    def before_run(self, runner: Runner) -> None:
        """Let the logger's lines pass above the bar."""
        if self._wanted:
            self._redirection.enter_context(logging_redirect_tqdm(loggers=[runner.logger]))

    def after_run(self, runner: Runner) -> None:
        self._close()
        self._redirection.close()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Show the bar again after the start, a resume or a validation."""
        if self._bar is None and self._wanted:
            self._open("train", runner.max_iters, done=runner.iter)
        if not self._steps:
            self._started = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance, and show the loss that MMEngine has recorded."""
        if self._bar is not None:
            if "train/loss" in runner.message_hub.log_scalars:
                loss = runner.message_hub.get_scalar("train/loss").current()
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update()
        if self._steps < _LOGGED_STEPS[-1]:
            self._log_step(runner, "train", runner.max_iters - runner.iter - 1)

    def before_train(self, runner: Runner) -> None:
        self._steps = 0

    def after_train(self, runner: Runner) -> None:
        self._close()

    def before_val_epoch(self, runner: Runner) -> None:
        self._open("val", len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        self._steps, self._started = 0, time.perf_counter()
        self._open("test", len(runner.test_dataloader))

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Advance in validation and test; the last image removes the bar, evaluators print."""
        if self._bar is not None:
            self._bar.update()
            if self._bar.n >= self._bar.total:
                self._close()
        if mode == "test":
            self._log_step(runner, mode, len(runner.test_dataloader) - batch_idx - 1)

    def _log_step(self, runner: Runner, mode: str, left: int) -> None:
        """Log some of the first steps where there is no bar, as long as the log itself has not begun."""
        self._steps += 1
        if self._steps > _LOGGED_STEPS[-1]:
            return
        now = time.perf_counter()
        log = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), math.inf)
        if self._steps in _LOGGED_STEPS and self._steps < log and is_main_process() and not sys.stderr.isatty():
            seconds = (now - self._started) / max(1, self._steps - 1)
            message = f"step {self._steps} is done"
            if self._steps > 1:
                message += f", {seconds:.2g} s each, about {timedelta(seconds=round(seconds * left))} left"
            runner.logger.info("%s: %s.", mode, message)
        if self._steps == 1:
            self._started = now  # the first step takes longest

    def _open(self, title: str, total: int, done: int = 0) -> None:
        self._close()
        if self._wanted:
            self._bar = tqdm(total=total, initial=done, desc=title, leave=False, dynamic_ncols=True, smoothing=0.05)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @functools.cached_property
    def _wanted(self) -> bool:
        return is_main_process() and sys.stderr.isatty()


@VISBACKENDS.register_module()
class WandbBackend(WandbVisBackend):
    """Log to W&B: losses, metrics and the config. MMEngine's uploads the source code of the present folder, too.

    W&B's own environment variables decide what is not given: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY.
    `init_kwargs` are more arguments of `wandb.init`.
    """

    def __init__(self, save_dir: str, run_name: str | None = None, init_kwargs: dict | None = None) -> None:
        settings = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "name": run_name, **(init_kwargs or {})}
        super().__init__(save_dir, init_kwargs=settings)

    def _init_env(self) -> None:
        import wandb

        try:
            super()._init_env()
        except wandb.Error as error:
            raise ConfigError(
                f"W&B could not start ({first_line(error)}): run `wandb login`, or set WANDB_MODE=offline."
            ) from error

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config as values and nothing else."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def close(self) -> None:
        if hasattr(self, "_wandb"):
            self._wandb.finish()


@VISBACKENDS.register_module()
class MLflowBackend(MLflowVisBackend):
    """Log to MLflow: losses, metrics, the settings that decide, the config, and at the end curves and the log.

    It goes where MLflow itself puts it: to the server that MLFLOW_TRACKING_URI names, else into `mlflow.db` in the
    present folder. MMEngine's backend insists on a folder of files, which MLflow 3 refuses. Without `experiment` it is
    called as MLFLOW_EXPERIMENT_NAME says, or `localvit_det`.
    """

    def __init__(self, save_dir: str, run_name: str | None = None, experiment: str | None = None) -> None:
        super().__init__(save_dir, experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), run_name)
        self._failures = 0  # in a row

    def _init_env(self) -> None:
        import mlflow

        try:
            mlflow.set_experiment(self._exp_name)
            mlflow.start_run(run_name=self._run_name)
        except mlflow.MlflowException as error:
            raise ConfigError(
                f"MLflow could not start at {mlflow.get_tracking_uri()} ({first_line(error)}): correct "
                "MLFLOW_TRACKING_URI."
            ) from error
        self._mlflow = mlflow

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config as a text, and as values what runs are compared by."""
        self.experiment.log_params(_compared_settings(config))
        self.experiment.log_text(config.pretty_text, "config.py")

    def add_scalars(
        self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Record losses or metrics; a server that cannot be reached ends no training."""
        experiment = self.experiment  # where nothing could be started, that is an error
        if self._failures < _GIVEN_UP:
            self._try(lambda: experiment.log_metrics(scalar_dict, step))

    def _try(self, record: Callable[[], object]) -> None:
        try:
            record()
            self._failures = 0
        except Exception as error:  # MLflow's own, and those of whatever carries it to the server
            self._failures += 1
            rest = "; nothing more is sent there" if self._failures == _GIVEN_UP else ""
            # Formatted here: MMEngine's logger drops a warning whose unformatted text it has seen.
            text = f"MLflow has not taken what was logged ({first_line(error)}), {self._failures} times in a row{rest}."
            print_log(text, "current", logging.WARNING)

    def close(self) -> None:
        """Add the run's files and end it."""
        if not hasattr(self, "_mlflow"):
            return
        run = Path(self._save_dir).parent
        files = [file for file in (run.parent / "curves.png", *run.glob("*.log")) if file.is_file()]
        if self._failures < _GIVEN_UP:
            self._try(lambda: [self._mlflow.log_artifact(str(file)) for file in files])
            self._try(self._mlflow.end_run)
        del self._mlflow, self._env_initialized


def _compared_settings(config: Config) -> dict[str, Any]:
    """Return the few values of a config that runs are compared by."""
    values = {
        "model": "model.type",
        "backbone": "model.backbone.type",
        "arch": "model.backbone.arch",
        "lr": "optim_wrapper.optimizer.lr",
        "batch_size": "train_dataloader.batch_size",
        "epochs": "train_cfg.max_epochs",
        "seed": "randomness.seed",
    }
    nodes = walk(config.to_dict())
    given = {f"{path}.{key}".lstrip("."): value for path, node in nodes for key, value in node.items()}
    return {name: given[path] for name, path in values.items() if given.get(path) is not None}
