"""The hooks in MMEngine's own runner, with a model and a metric that cost nothing."""

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from engine_runner import METRICS, SEGM
from mmengine.runner import Runner

import localvit_det  # noqa: F401 - registers the hooks
from localvit_det.engine import reporting
from localvit_det.engine.reporting import coco_table


def log_of(runner: Runner) -> str:
    return (Path(runner.log_dir) / f"{runner.timestamp}.log").read_text()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    """Collects what is drawn, instead of drawing."""
    calls = []
    monkeypatch.setattr(reporting, "draw_curves", lambda losses, mean_aps, path: calls.append((losses, mean_aps)))
    return calls


def test_table_has_a_row_for_each_task() -> None:
    lines = coco_table({**METRICS, **SEGM}).splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert lines[1].split() == ["bbox", "0.437", "0.660", "0.478", "0.262", "0.471", "-"]
    assert [line.split()[0] for line in lines[1:]] == ["bbox", "segm"]
    assert len({len(line) for line in lines}) == 1


def test_report_of_a_training(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    runner = make_runner(metrics={**METRICS, **SEGM}, accumulation=4, save_best="auto")
    runner.train()
    log = log_of(runner)
    assert "batch 8 (2 per process x 1 processes x 4 accumulated), learning rate 0.02 (now 2e-05)" in log
    assert "8 images, 12 iterations (3 epochs), 1,000 of 1,234 parameters trained" in log
    assert log.count("AP75") == 1
    assert "COCO results (validation after iteration 12)" in log
    saved = dict(re.findall(r"^  (\w[\w ]*?) {2,}(/.*)$", log[log.index("Saved:") :], re.MULTILINE))
    assert saved.keys() == {"work dir", "last checkpoint", "best checkpoint", "curves", "log", "json log"}
    assert all(Path(path).exists() for path in saved.values())
    assert saved["last checkpoint"].endswith("epoch_3.pth")


def test_report_of_a_test(make_runner: Callable[..., Runner]) -> None:
    runner = make_runner(metrics=METRICS)
    runner.test()
    log = log_of(runner)
    assert "COCO results (test)" in log
    assert "segm" not in log[log.index("COCO results") :]
    assert "Saved:" not in log
    assert "Training:" not in log


def test_report_of_a_validation_alone(make_runner: Callable[..., Runner], drawn: list) -> None:
    runner = make_runner(metrics=METRICS)
    runner.val()
    assert "COCO results (validation)" in log_of(runner)
    assert not drawn


def test_training_without_validation(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    runner = make_runner(schedule={"type": "IterBasedTrainLoop", "max_iters": 6})
    runner.train()
    log = log_of(runner)
    assert "COCO results" not in log
    assert "6 iterations, " in log
    assert "Saved:" in log
    assert "could not be drawn" not in log
    assert (tmp_path / "curves.png").exists()


def test_scaled_learning_rate(make_runner: Callable[..., Runner]) -> None:
    scaled = make_runner(epochs=1, auto_scale_lr={"enable": True, "base_batch_size": 16})
    scaled.train()
    assert "learning rate 0.0025 (now 2.5e-06, scaled from a batch of 16)" in log_of(scaled)
    assert "meant for a batch" not in log_of(scaled)

    forgotten = make_runner(epochs=1, auto_scale_lr={"enable": False, "base_batch_size": 16})
    forgotten.train()
    assert "meant for a batch of 16: --auto-scale-lr" in log_of(forgotten)


def test_curves_hold_every_iteration(make_runner: Callable[..., Runner], drawn: list) -> None:
    make_runner(metrics=METRICS).train()
    losses, mean_aps = drawn[-1]
    assert losses.keys() == {"loss", "loss_cls", "loss_bbox"}
    assert losses["loss"][0].tolist() == list(range(1, 13))
    assert np.all(losses["loss"][1] > losses["loss_cls"][1])
    assert mean_aps["bbox"][0].tolist() == [4, 8, 12]
    assert len(drawn) == 4  # three validations and the end


def test_curves_go_on_after_a_resume(make_runner: Callable[..., Runner], drawn: list, tmp_path: Path) -> None:
    first = make_runner(epochs=3, metrics=METRICS)
    first.train()
    before = drawn[-1][0]["loss"][1]
    # Back to epoch 2: the third one is trained, and validated, anew.
    resumed = make_runner(
        epochs=4,
        metrics={**METRICS, "coco/bbox_mAP": 0.5},
        load_from=str(tmp_path / "epoch_2.pth"),
        resume=True,
    )
    resumed.train()
    losses, mean_aps = drawn[-1]
    assert losses["loss"][0].tolist() == list(range(1, 17))
    assert losses["loss"][1][:12] == pytest.approx(before)
    assert mean_aps["bbox"][0].tolist() == [4, 8, 12, 16]
    assert mean_aps["bbox"][1].tolist() == [0.437, 0.437, 0.5, 0.5]
    assert "going on after iteration 8" in log_of(resumed)

    make_runner(epochs=1, metrics=METRICS).train()
    assert drawn[-1][1]["bbox"][0].tolist() == [4]  # a new training does not inherit


def test_curves_after_an_interruption(
    make_runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_exit = []
    monkeypatch.setattr(reporting.atexit, "register", lambda *call: at_exit.append(call))
    visits = iter([*[None] * 11, KeyboardInterrupt])

    def visit() -> None:
        if stop := next(visits):
            raise stop

    runner = make_runner(visit=visit)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not (tmp_path / "curves.png").exists()
    for function, *arguments in at_exit:
        function(*arguments)
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (540, 1440, 3)


def test_failed_drawing_only_warns(
    make_runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no fonts")

    (tmp_path / "curves.json").write_text("{not json")
    monkeypatch.setattr(reporting, "draw_curves", fail)
    runner = make_runner(metrics=METRICS)
    runner.train()
    assert runner.iter == 12
    assert "The curves could not be drawn: RuntimeError('no fonts')" in log_of(runner)


def test_long_and_broken_curves_are_drawn(tmp_path: Path) -> None:
    iterations = np.arange(1, 30_001)
    values = 1 / np.sqrt(iterations)
    values[100:200] = np.nan
    values[300] = np.inf
    reporting.draw_curves({"loss": (iterations, values)}, {}, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]

    x, y = reporting.smooth(*reporting.thin_out(iterations, np.ones(30_000)))
    assert len(x) == 1000
    assert x[0] == pytest.approx(15.5)
    assert y == pytest.approx(np.ones(1000))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_at_a_terminal(make_runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    runner = make_runner(metrics=METRICS)
    handlers = list(runner.logger.handlers)
    runner.train()
    runner.test()
    screen = terminal.getvalue()
    for title in ("train:", "val:", "test:"):
        assert title in screen
    assert "| 0/12 [" in screen
    assert "| 4/12 [" in screen  # comes back after a validation where it was
    logged = [line.split("\r")[-1] for line in screen.split("\n") if "mmengine" in line and "INFO" in line]
    assert len(logged) > 10
    assert all(re.match(r"(\x1b\[[\d;]*[mK])*\d\d/\d\d ", line) for line in logged)  # nothing before the date
    assert runner.logger.handlers == handlers


def test_no_progress_bar_without_a_terminal(
    make_runner: Callable[..., Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(metrics=METRICS)
    runner.train()
    assert "|" not in capsys.readouterr().err
    assert any(type(handler) is logging.StreamHandler for handler in runner.logger.handlers)


def test_points_are_plain_numbers(make_runner: Callable[..., Runner], drawn: list, tmp_path: Path) -> None:
    make_runner(epochs=1, metrics={**METRICS, **SEGM}).train()
    assert json.loads((tmp_path / "curves.json").read_text()) == [{"iteration": 4, "bbox": 0.437, "segm": 0.437}]
