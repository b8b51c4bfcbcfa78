"""What protection costs an iteration: counted, as times are noisy (`python -m benchmarks.overhead` measures them)."""

import statistics
import sys
import threading

import torch
from mmengine.runner import Runner
from toy_training import Do, toy_runner

from localvit_det.engine import ReliableRunner, reporting
from localvit_det.engine.reporting import CURVES_FILE


def reads(folder, cls, monkeypatch) -> int:
    """How often numbers are read from tensors, for which a GPU has to be waited for."""
    count = [0]

    def counted(original):
        def read(*args):
            count[0] += 1
            return original(*args)

        return read

    with monkeypatch.context() as patch:
        for name in ("item", "__float__", "__bool__", "tolist"):
            patch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
        toy_runner(folder, runner_class=cls, hooks={"checkpoint": {"type": "CheckpointHook", "interval": 100}}).train()
    return count[0]


def test_two_numbers_are_read_more_than_by_mmengine(tmp_path, monkeypatch):
    """The loss, and whether gradients are finite; once for the checkpoint at the end."""
    of_mmengine = reads(tmp_path / "a", Runner, monkeypatch)
    assert of_mmengine < reads(tmp_path / "b", ReliableRunner, monkeypatch) <= of_mmengine + 2 * 18 + 3


def calls_an_iteration(folder, cls) -> float:
    """How many functions are called in an iteration, those in C included."""
    counts: list[int] = []

    def count(frame, event, argument) -> None:
        counts[-1] += event in ("call", "c_call")

    def start(runner) -> None:
        counts.append(0)
        sys.setprofile(count)

    hooks = [{"type": name} for name in ("ProgressBarHook", "TrainingReportHook", "CurvesHook")]
    stop = Do("after_train_epoch", lambda _: sys.setprofile(None))  # it validates, saves and draws
    custom = [Do("before_train_iter", start), stop, *(hooks if cls is ReliableRunner else [])]
    try:
        toy_runner(folder, epochs=3, runner_class=cls, custom_hooks=custom).train()
    finally:
        sys.setprofile(None)
    return statistics.median(counts)


def test_few_functions_are_called_more_than_by_mmengine(tmp_path):
    """Seeds of images and iteration, two checks, three hooks more: no call for hooks that do nothing."""
    more = calls_an_iteration(tmp_path / "b", ReliableRunner) - calls_an_iteration(tmp_path / "a", Runner)
    assert 0 < more < 70, more


def test_hooks_that_do_nothing_are_not_called(tmp_path):
    runner = toy_runner(tmp_path)
    seen: list[int] = []
    runner.register_hook(Do("after_own_point", lambda _: seen.append(1)))
    runner.call_hook("after_own_point")
    assert seen == [1]
    active = [type(hook).__name__ for hook in runner._hooks_at("before_train_iter")]
    assert "IterTimerHook" in active  # by `_before_iter`
    assert "RuntimeInfoHook" in active
    assert not {"Do", "SafeCheckpointHook", "FreeMemoryHook", "ParamSchedulerHook"} & set(active)
    later = Do("before_train_iter", lambda _: seen.append(2))
    runner.register_hook(later)
    assert later in runner._hooks_at("before_train_iter")


def test_iterations_do_not_wait_for_curves(tmp_path, monkeypatch):
    going_on, threads = threading.Event(), []

    def draw(losses, mean_aps, path):
        threads.append(threading.current_thread())
        if len(threads) == 1:
            assert going_on.wait(30)
        path.write_text(", ".join(losses))

    monkeypatch.setattr(reporting, "draw_curves", draw)
    ends = []
    hooks = [
        {"type": "CurvesHook", "interval": 2},
        Do("before_train_iter", lambda runner: runner.iter == 3 and going_on.set()),
        Do("before_train_epoch", lambda _: ends.append([one for one in threads if one.is_alive()])),
    ]
    runner = toy_runner(tmp_path, epochs=2, custom_hooks=hooks)
    runner.train()
    main = threading.current_thread()
    assert [one is main for one in threads] == [False] * 6 + [True]  # the last one at the end
    assert ends == [[], []]  # when data workers are forked
    assert (tmp_path / CURVES_FILE).read_text() == "loss, loss_cls, loss_bbox"
