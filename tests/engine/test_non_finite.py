"""NaN, infinite and runaway losses: nothing is spoilt, and everything is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from toy_training import Do, NoisyImages, ToyModel, different, log_of, names, tensors_of, toy_runner

from localvit_det.errors import ConfigError, NonFiniteError


class Spoilt(ToyModel):
    """Goes wrong in the given iterations, in the given way."""

    def __init__(self, iterations: range | tuple[int, ...], how: str) -> None:
        super().__init__()
        self.iterations, self.how, self.now = iterations, how, -1

    def forward(self, inputs, data_samples=None, mode="tensor"):
        out = super().forward(inputs, data_samples, mode)
        if mode == "loss" and self.now in self.iterations:
            if self.how == "nan":
                out["loss_cls"] = out["loss_cls"] * float("nan")
            elif self.how == "runaway":
                out["loss_bbox"] = out["loss_bbox"] * 1e6
            elif self.how == "gradients":  # 0 at the loss, infinite in its derivative
                out["loss_cls"] = out["loss_cls"] + (out["loss_cls"] * 0).sqrt()
        return out


class Count(Hook):
    """Sets the iteration in the model, and keeps the state before it."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.before = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        runner.model.now = runner.iter
        self.before = {name: value.clone() for name, value in runner.model.state_dict().items()}


def spoilt(folder: Path, iterations, how: str, **options):
    count = Count()
    settings = options.pop("non_finite", {})
    runner = toy_runner(
        folder, model=Spoilt(iterations, how), custom_hooks=[count], cfg={"non_finite": settings}, **options
    )
    return runner, count


@pytest.fixture
def repeated_warnings() -> Iterator[None]:
    """PyTorch's own warnings come each time, not once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("repeated_warnings")
@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("how", ["nan", "gradients", "runaway"])
def test_stopped_and_named(how, tmp_path):
    runner, count = spoilt(tmp_path, range(14, 99), how)
    with pytest.raises(NonFiniteError) as stop:
        runner.train()
    start = {
        "nan": "Iteration 17: loss_cls is NaN (images image_",
        "gradients": "Iteration 17: the gradients are not finite (images image_",
        "runaway": "Iteration 17: loss_bbox is ",
    }[how]
    assert str(stop.value).startswith(start)
    assert "3 times in a row: no such step was taken" in str(stop.value)
    assert not different(count.before, runner.model.state_dict())
    assert "Iteration 15: " in log_of(runner)
    assert "The step is skipped (1 of at most 2 in a row)" in log_of(runner)
    assert names(tmp_path) == ["epoch_1.pth", "epoch_2.pth"]


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_single_one_is_skipped(tmp_path):
    """Also the first, after which MMEngine would warn of the order of optimizer and schedules."""
    runner, _ = spoilt(tmp_path, (0, 9), "nan")
    runner.train()
    assert runner.iter == 18
    assert log_of(runner).count("The step is skipped") == 2
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())


def test_poisoned_image_is_named_with_its_layer(tmp_path):
    """NaN in an image also reaches running statistics, which have to come back."""
    runner = toy_runner(
        tmp_path, dataset=NoisyImages(poisoned=(5,)), cfg={"non_finite": {"patience": 1}}, custom_hooks=[Count()]
    )
    with pytest.raises(
        NonFiniteError, match=r"loss_cls is NaN.*image_5\.jpg.*first in the output of data_preproc"
    ) as stop:
        runner.train()
    assert "loss_bbox is NaN" in str(stop.value)
    assert torch.isfinite(runner.model.norm.running_mean).all()


def test_layer_is_named(tmp_path):
    runner = toy_runner(tmp_path, cfg={"non_finite": {"patience": 1}})

    def spoil(module, inputs, output):
        return output * float("inf")

    runner.model.norm.register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"first in the output of norm \(BatchNorm2d\)"):
        runner.train()
    poison = Do("before_train_epoch", lambda runner: runner.model.head.bias.data[0].fill_(float("nan")))
    weights = toy_runner(tmp_path / "weights", cfg={"non_finite": {"patience": 1}}, custom_hooks=[poison])
    with pytest.raises(NonFiniteError, match=r"the weight head\.bias is not finite"):
        weights.train()


def test_accumulated_gradients_are_dropped(tmp_path):
    """The window with NaN counts for nothing, the next one is whole."""
    runner, _ = spoilt(tmp_path, (5,), "nan", accumulation=4)
    runner.train()
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    assert runner.optim_wrapper.inner_count == 18


class InTurn(Spoilt):
    """Trained by two optimizers, each with its own step."""

    def train_step(self, data, optim_wrapper):
        for wrapper in optim_wrapper.values():
            with wrapper.optim_context(self):
                loss, values = self.parse_losses(self._run_forward(self.data_preprocessor(data, True), mode="loss"))
            wrapper.update_params(loss)
        return values


@pytest.mark.parametrize("action", ["stop", "go_back"])
def test_several_optimizers_are_guarded(action, tmp_path):
    model = InTurn(range(8, 99), "nan")
    settings = {"non_finite": {"action": action, "patience": 2, "returns": 1, "lower_lr": 0.1}}
    runner = toy_runner(tmp_path, model=model, custom_hooks=[Count()], cfg=settings, schedule=[])
    parts = {"conv": model.conv, "head": model.head}
    runner.optim_wrapper = OptimWrapperDict(
        **{name: OptimWrapper(torch.optim.SGD(part.parameters(), 0.02)) for name, part in parts.items()}
    )
    with pytest.raises(NonFiniteError, match=r"loss_cls is NaN|still not finite"):
        runner.train()
    assert "Iteration 9: loss_cls is NaN" in log_of(runner)
    assert "every layer's output is finite: the loss itself is not" in log_of(runner)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    rate = 0.02 if action == "stop" else 0.002
    assert runner.optim_wrapper.get_lr() == {"conv.lr": [pytest.approx(rate)], "head.lr": [pytest.approx(rate)]}


def test_going_back(tmp_path):
    settings = {"action": "go_back", "returns": 2, "lower_lr": 0.1}
    groups = {"paramwise_cfg": {"bias_lr_mult": 1.0}}  # MMEngine logs a `base_lr` of its own, where there are several
    runner, _ = spoilt(tmp_path, range(14, 99), "nan", non_finite=settings, optim=groups)
    rates = []

    def rate(runner) -> None:
        shown = runner.optim_wrapper.get_lr()
        assert shown["base_lr"][0] == pytest.approx(shown["lr"][0])
        rates.append((runner.iter, shown["lr"][0]))
        if len([i for i, _ in rates if i == 14]) == 3:
            runner.model.iterations = ()

    runner.register_hook(Do("before_train_iter", rate), priority="LOWEST")
    runner.train()
    at_12 = [rate for iteration, rate in rates if iteration == 12]
    assert at_12[1:] == pytest.approx([at_12[0] * 0.1, at_12[0] * 0.01])
    assert runner.iter == 18
    log = log_of(runner)
    assert "going back to epoch_2.pth, with 0.1 times its learning rate" in log
    assert "with 0.01 times" in log


def test_going_back_ends(tmp_path):
    runner, _ = spoilt(tmp_path / "a", range(14, 99), "nan", non_finite={"action": "go_back", "returns": 1})
    with pytest.raises(NonFiniteError, match="has gone back 1 times and is still not finite"):
        runner.train()
    runner, _ = spoilt(tmp_path / "b", range(99), "nan", non_finite={"action": "go_back"})
    with pytest.raises(NonFiniteError, match="no checkpoint yet to go back to"):
        runner.train()


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="action='explode'"):
        toy_runner(tmp_path, cfg={"non_finite": {"action": "explode"}}).train()


def test_guard_changes_nothing(tmp_path):
    """A good training has the same weights with the guard and without it."""
    toy_runner(tmp_path / "with").train()
    without = toy_runner(tmp_path / "without")
    without.guard.watch = lambda wrapper: None
    without.train()
    assert not different(tensors_of(tmp_path / "with/epoch_3.pth"), tensors_of(tmp_path / "without/epoch_3.pth"))
