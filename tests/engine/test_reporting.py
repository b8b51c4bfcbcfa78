"""What a training reports: settings, tables, files and curves, with MMEngine's own runner and ours."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.runner import Runner
from toy_training import Do, Scores, log_of, toy_runner

from localvit_det.engine import reporting

BBOX = {
    "coco/bbox_mAP": 0.437,
    "coco/bbox_mAP_50": 0.66,
    "coco/bbox_mAP_75": 0.478,
    "coco/bbox_mAP_s": 0.262,
    "coco/bbox_mAP_m": 0.471,
    "coco/bbox_mAP_l": -1.0,
    "coco/bbox_mAP_copypaste": "0.437 0.660",
    "coco/circle_precision": 0.5,
}
METRICS = BBOX | {key.replace("bbox", "segm"): value for key, value in BBOX.items() if "bbox" in key}
HOOKS = [{"type": "TrainingReportHook"}, {"type": "CurvesHook"}]


def runner_of(folder: Path, *hooks, metrics: dict | None = None, runner_class=Runner, **options) -> Runner:
    own = [Scores(metrics)] if metrics else []
    options = {"runner_class": runner_class, "validate": metrics is not None, **options}
    return toy_runner(folder, custom_hooks=[*hooks, *own, *HOOKS], **options)


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[dict, dict]]:
    """Collects what is drawn, instead of drawing."""
    calls = []
    monkeypatch.setattr(reporting, "draw_curves", lambda losses, mean_aps, path: calls.append((losses, mean_aps)))
    return calls


def test_table_has_a_row_for_each_task():
    lines = reporting.coco_table(METRICS).splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert lines[1].split() == ["bbox", "0.437", "0.660", "0.478", "0.262", "0.471", "-"]
    assert [line.split()[0] for line in lines[1:]] == ["bbox", "segm"]
    assert len({len(line) for line in lines}) == 1


def test_report_of_a_training(tmp_path):
    best = {"save_best": "auto"}
    runner = runner_of(tmp_path, metrics=METRICS, accumulation=4, checkpoint=best)
    runner.model.conv.bias.requires_grad_(False)
    runner.train()
    log = log_of(runner)
    assert "batch 8 (2 per process x 1 processes x 4 accumulated), learning rate 0.02 (now 0.002)" in log
    assert "12 images, 18 iterations (3 epochs), 250 of 258 parameters trained" in log
    assert log.count("    AP75") == 1
    line = "Validation after iteration {}: bbox {n}; segm {n}\n"
    numbers = "AP 0.437, AP50 0.660, AP75 0.478, APs 0.262, APm 0.471"
    assert [line.format(number, n=numbers) in log for number in (6, 12, 18)] == [True, True, False]  # the table has 18
    assert "COCO results (validation after iteration 18)" in log
    saved = dict(re.findall(r"^  (\w[\w ]*?) {2,}(/.*)$", log[log.index("Saved:") :], re.MULTILINE))
    assert saved.keys() == {"work dir", "last checkpoint", "best checkpoint", "curves", "log"}
    assert all(Path(path).exists() for path in saved.values())
    assert saved["last checkpoint"].endswith("epoch_3.pth")


@pytest.mark.parametrize("mode", ["test", "val"])
def test_report_of_an_evaluation_alone(mode, tmp_path, drawn):
    runner = runner_of(tmp_path, metrics=BBOX)
    getattr(runner, mode)()
    log = log_of(runner)
    assert f"COCO results ({'test' if mode == 'test' else 'validation'})" in log
    assert "segm" not in log[log.index("COCO results") :]
    assert "Saved:" not in log
    assert "Training:" not in log
    assert not drawn


def test_training_without_validation(tmp_path):
    runner = runner_of(tmp_path, train_cfg={"type": "IterBasedTrainLoop", "max_iters": 6})
    runner.train()
    log = log_of(runner)
    assert "COCO results" not in log
    assert "6 iterations, " in log
    assert "Saved:" in log
    assert "could not be drawn" not in log
    assert (tmp_path / "curves.png").exists()


def test_curves_go_on_after_a_resume(tmp_path, drawn):
    runner_of(tmp_path, metrics=METRICS).train()
    losses, mean_aps = drawn[-1]
    assert losses.keys() == {"loss", "loss_cls", "loss_bbox"}
    assert losses["loss"][0].tolist() == list(range(1, 19))
    assert np.all(losses["loss"][1] > losses["loss_cls"][1])
    assert mean_aps["bbox"][0].tolist() == [6, 12, 18]
    assert len(drawn) == 4  # three validations and the end
    points = json.loads((tmp_path / "validations.json").read_text())
    assert (points[0]["iteration"], points[0]["metrics"]["coco/segm_mAP"]) == (6, 0.437)

    # Back to epoch 2: the third one is trained, and validated, anew.
    before, better = losses["loss"][1], {"coco/bbox_mAP": 0.5}
    back = {"load_from": str(tmp_path / "epoch_2.pth"), "resume": True}
    resumed = runner_of(tmp_path, metrics=better, epochs=4, **back)
    resumed.train()
    losses, mean_aps = drawn[-1]
    assert losses["loss"][0].tolist() == list(range(1, 25))
    assert losses["loss"][1][:12] == pytest.approx(before[:12])
    assert mean_aps["bbox"][0].tolist() == [6, 12, 18, 24]
    assert mean_aps["bbox"][1].tolist() == [0.437, 0.437, 0.5, 0.5]
    assert "going on after iteration 12" in log_of(resumed)

    runner_of(tmp_path, metrics=METRICS, epochs=1).train()
    assert drawn[-1][1]["bbox"][0].tolist() == [6]  # a new training does not inherit


def test_curves_after_an_interruption(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(reporting.atexit, "register", lambda *call: at_exit.append(call))

    def interrupt(runner: Runner) -> None:
        if runner.iter == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner_of(tmp_path, Do("before_train_iter", interrupt)).train()
    assert not (tmp_path / "curves.png").exists()
    for function, *arguments in at_exit:
        function(*arguments)
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (540, 1440, 3)


def test_failed_drawing_only_warns(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("no fonts")

    (tmp_path / "validations.json").write_text("{not json")
    monkeypatch.setattr(reporting, "draw_curves", fail)
    runner = runner_of(tmp_path, metrics=METRICS)
    runner.train()
    assert runner.iter == 18
    assert "The curves could not be drawn: RuntimeError('no fonts')" in log_of(runner)


def test_long_and_broken_curves_are_drawn(tmp_path):
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


# ---- learning rates that are scaled with the batch of an optimizer's step


@pytest.mark.parametrize(("accumulation", "rate"), [(1, 0.0025), (4, 0.01), (8, 0.02)])
def test_accumulated_batches_count(accumulation, rate, tmp_path):
    """0.02 is meant for 16 images; a batch has 2."""
    scaling = {"enable": True, "base_batch_size": 16}
    groups = {"paramwise_cfg": {"bias_lr_mult": 1.0}, "accumulative_counts": accumulation}
    runner = toy_runner(tmp_path, optim=groups, auto_scale_lr=scaling, epochs=1, custom_hooks=HOOKS)
    runner.train()
    assert runner.optim_wrapper.param_groups[0]["initial_lr"] == pytest.approx(rate)
    shown = runner.optim_wrapper.get_lr()
    assert shown["base_lr"] == pytest.approx([shown["lr"][0]])
    log = log_of(runner)
    assert f"learning rate {rate:.3g} (now {rate / 10:.3g}, scaled from a batch of 16)" in log
    assert f"scaled by {2 * accumulation / 16:g}, from a batch of 16 to one of {2 * accumulation}." in log
    assert "meant for a batch" not in log


@pytest.mark.parametrize("base", [8, 16])
def test_advice_counts_them_too(base, tmp_path):
    scaling = {"enable": False, "base_batch_size": base}
    runner = toy_runner(tmp_path, accumulation=4, auto_scale_lr=scaling, epochs=1, custom_hooks=HOOKS)
    runner.train()
    assert (f"meant for a batch of {base}: --auto-scale-lr" in log_of(runner)) is (base != 8)


def test_a_loss_of_one_iteration_can_be_seen(tmp_path):
    """There are more pixels of its color than those of the legend."""
    counts = []
    for value in (0.5, np.nan):
        reporting.draw_curves({"loss_cls": (np.array([4]), np.array([value]))}, {}, tmp_path / "curves.png")
        image = cv2.imread(str(tmp_path / "curves.png")).astype(int)
        counts.append((np.abs(image - (180, 119, 31)).max(2) < 40).sum())
    assert counts[0] > counts[1] + 10
