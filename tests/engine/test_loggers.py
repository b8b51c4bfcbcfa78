"""The progress bar; W&B and MLflow, offline and for real, skipped where they are not installed (they are large)."""

import io
import logging
import re
from pathlib import Path

import pytest
from conftest import lines_logged_by
from mmengine.config import Config
from mmengine.runner import Runner
from toy_training import log_of, toy_runner

from localvit_det.engine import MLflowBackend, loggers
from localvit_det.errors import ConfigError

CONFIG = Config(
    {
        "model": {"type": "ToyModel", "backbone": {"type": "ShuffleTransformer", "arch": "tiny"}},
        "optim_wrapper": {"optimizer": {"lr": 0.02}},
        "randomness": {"seed": 3},
    }
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_at_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    runner = toy_runner(tmp_path, validate=True, custom_hooks=[{"type": "ProgressBarHook"}], runner_class=Runner)
    handlers = list(runner.logger.handlers)
    runner.train()
    runner.test()
    screen = terminal.getvalue()
    for title in ("train:", "val:", "test:"):
        assert title in screen
    assert "| 0/18 [" in screen
    assert "| 6/18 [" in screen  # comes back after a validation where it was
    logged = [line.split("\r")[-1] for line in screen.split("\n") if "mmengine" in line and "INFO" in line]
    assert len(logged) > 10
    assert all(re.match(r"(\x1b\[[\d;]*[mK])*\d\d/\d\d ", line) for line in logged)  # nothing before the date
    assert runner.logger.handlers == handlers


def test_no_progress_bar_without_a_terminal(tmp_path, capsys):
    hooks = {"logger": {"type": "LoggerHook", "interval": 4}}
    runner = toy_runner(tmp_path, validate=True, custom_hooks=[{"type": "ProgressBarHook"}], hooks=hooks)
    runner.train()
    assert "|" not in capsys.readouterr().err
    assert any(type(handler) is logging.StreamHandler for handler in runner.logger.handlers)
    steps = re.findall(r"train: step (\d+) is done", log_of(runner))
    assert steps == ["1", "2"]  # then the log has its own lines


def trained(folder: Path, backend: dict):
    visualizer = {"type": "Visualizer", "name": f"{backend['type']} {folder}", "vis_backends": [
        {"type": "LocalVisBackend"}, backend]}  # fmt: skip
    hooks = [{"type": "CurvesHook"}]
    runner = toy_runner(folder, epochs=2, validate=True, visualizer=visualizer, custom_hooks=hooks)
    runner.visualizer.add_config(CONFIG)
    runner.train()
    return runner


VALUES = {"model": "ToyModel", "backbone": "ShuffleTransformer", "arch": "tiny", "lr": 0.02, "seed": 3}


def test_values_that_runs_are_compared_by():
    assert loggers._compared_settings(CONFIG) == VALUES


class TestMlflow:
    @pytest.fixture
    def mlflow(self, tmp_path, monkeypatch):
        mlflow = pytest.importorskip("mlflow")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mlflow.set_tracking_uri(None)
        yield mlflow
        mlflow.end_run()
        mlflow.set_tracking_uri(None)

    def test_a_local_database_by_itself(self, mlflow, tmp_path):
        runner = trained(tmp_path / "run", {"type": "MLflowBackend", "run_name": "mine"})
        [run] = mlflow.search_runs(experiment_names=["localvit_det"], output_format="list")
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "mine"
        assert run.data.params == {name: str(value) for name, value in VALUES.items()}
        assert {"mAP", "loss"} <= set(run.data.metrics)
        files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
        assert {"config.py", "curves.png"} <= files
        assert "Epoch(val) [2]" in log_of(runner)  # importing mlflow closes the handlers of others

    def test_a_wrong_address(self, mlflow, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
        mlflow.set_tracking_uri("nonsense://x")
        with pytest.raises(ConfigError, match="MLflow could not start at nonsense://x"):
            trained(tmp_path / "run", {"type": "MLflowBackend"})


class Unreachable:
    """A server that answers once."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log_metrics(self, values: dict, step: int) -> None:
        self.calls.append("metrics")
        if step > 1:
            raise ConnectionError("No route to host")

    def end_run(self) -> None:
        self.calls.append("end")


def test_a_lost_server_ends_no_training(tmp_path, monkeypatch):
    lines = lines_logged_by(monkeypatch, loggers)
    backend = MLflowBackend(str(tmp_path))
    backend._mlflow, backend._env_initialized = Unreachable(), True
    server = backend._mlflow
    for step in range(1, 7):
        backend.add_scalars({"loss": 1.0}, step)
    backend.close()
    assert server.calls == ["metrics"] * 4
    assert len(lines) == 3
    assert lines[2].endswith("(No route to host), 3 times in a row; nothing more is sent there.")


class TestWandb:
    @pytest.fixture
    def wandb(self, tmp_path, monkeypatch):
        wandb = pytest.importorskip("wandb")
        monkeypatch.chdir(tmp_path)
        for name in ("WANDB_API_KEY", "WANDB_PROJECT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield wandb
        wandb.teardown()  # its settings are those of the process

    def test_offline(self, wandb, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        (tmp_path / "secret.py").write_text("password = 'of somebody'\n")
        trained(tmp_path / "run", {"type": "WandbBackend", "run_name": "mine"})
        assert wandb.run is None
        wandb.teardown()  # as the end of the process does: all is on the disk
        [file] = (tmp_path / "run").rglob("run-*.wandb")
        content = file.read_bytes()
        for text in (b"mine", b"loss", b"mAP", b"ShuffleTransformer"):
            assert text in content, text
        assert b"secret.py" not in content
        assert b"of somebody" not in content

    def test_not_logged_in(self, wandb, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "online")
        with pytest.raises(ConfigError, match=r"W&B could not start \(.*run `wandb login`, or set WANDB_MODE=offline"):
            trained(tmp_path / "run", {"type": "WandbBackend"})
