"""What protection costs an iteration: counted, as times are noisy (`python -m benchmarks.overhead` measures them)."""

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
