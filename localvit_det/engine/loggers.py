"""W&B and MLflow as MMEngine's backends have them, without what surprises: uploads of code, servers, failed ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet.registry import VISBACKENDS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import MLflowVisBackend, WandbVisBackend

from ..errors import ConfigError, first_line

PROJECT = "localvit_det"
_GIVEN_UP = 3  # failures in a row after which nothing more is sent


@VISBACKENDS.register_module()
class WandbBackend(WandbVisBackend):
    """Logs to W&B: losses, metrics and the config. MMEngine's uploads the source code of the present folder, too.

    W&B's own environment variables decide what is not given: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY.

    Args:
        save_dir: Where W&B keeps its files.
        run_name: Name of the run.
        init_kwargs: More arguments of `wandb.init`.
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
        """Records the config as values and nothing else."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def close(self) -> None:
        """Ends the run."""
        if hasattr(self, "_wandb"):
            self._wandb.finish()


@VISBACKENDS.register_module()
class MLflowBackend(MLflowVisBackend):
    """Logs to MLflow: losses, metrics, the settings that decide, the config, and at the end curves and the log.

    It goes where MLflow itself puts it: to the server that MLFLOW_TRACKING_URI names, else into `mlflow.db` in the
    present folder. MMEngine's backend insists on a folder of files, which MLflow 3 refuses.

    Args:
        save_dir: The run's folder of logs.
        run_name: Name of the run.
        experiment: Name of the experiment; MLFLOW_EXPERIMENT_NAME or `localvit_det` if none is given.
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
        """Records the config as a text, and as values what runs are compared by."""
        self.experiment.log_params(_settings(config))
        self.experiment.log_text(config.pretty_text, "config.py")

    def add_scalars(
        self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Records losses or metrics; a server that cannot be reached ends no training."""
        experiment = self.experiment  # where nothing could be started, that is an error
        if self._failures < _GIVEN_UP:
            self._try(lambda: experiment.log_metrics(scalar_dict, step))

    def _try(self, record: Callable[[], None]) -> None:
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
        """Adds the run's files and ends it."""
        if not hasattr(self, "_mlflow"):
            return
        run = Path(self._save_dir).parent
        files = [file for file in (run.parent / "curves.png", *run.glob("*.log")) if file.is_file()]
        if self._failures < _GIVEN_UP:
            self._try(lambda: [self._mlflow.log_artifact(str(file)) for file in files])
            self._try(self._mlflow.end_run)
        del self._mlflow, self._env_initialized


def _settings(config: Config) -> dict[str, Any]:
    """The few values of a config that runs are compared by."""
    values = {
        "model": "model.type",
        "backbone": "model.backbone.type",
        "arch": "model.backbone.arch",
        "lr": "optim_wrapper.optimizer.lr",
        "batch_size": "train_dataloader.batch_size",
        "epochs": "train_cfg.max_epochs",
        "seed": "randomness.seed",
    }
    found = {name: _look_up(config, path) for name, path in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _look_up(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if hasattr(config, "get") else None
    return config
