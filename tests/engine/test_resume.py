"""A resumed training whose config has changed: rates of one that had these settings from the start, or a refusal."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils._pytree import tree_map
from toy_training import NoisyImages, ToyModel, different, final, log_of, signal_at, tensors_of, toy_runner

from localvit_det.backbones import DWNet
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.engine.processes import Stopped
from localvit_det.engine.resume import ConfiguredState
from localvit_det.errors import CheckpointError, ConfigError, UserError

WARM_UP = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4}
# Of the recipes: a warm-up by iterations, then a cosine over the epochs that falls with every iteration.
COSINE = {"type": "CosineAnnealingLR", "begin": 0, "end": 3, "eta_min_ratio": 0.01, "convert_to_iter_based": True}
COSINE = [WARM_UP, {**COSINE, "by_epoch": True}]
LONGER = [WARM_UP, {**COSINE[1], "end": 5}]
STEPS = [WARM_UP, {"type": "MultiStepLR", "by_epoch": True, "end": 3, "milestones": [1, 2]}]
POLY = [{"type": "PolyLR", "by_epoch": False, "end": 18, "power": 0.9, "eta_min": 1e-5}]


class Rates(Hook):
    """Notes learning rate and weight decay of each iteration, by the number of epochs done."""

    def __init__(self) -> None:
        self.seen: dict[float, tuple[float, float]] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        group = runner.optim_wrapper.param_groups[0]
        done = runner.epoch + batch_idx / len(runner.train_dataloader)
        self.seen[round(done, 6)] = (group["lr"], group.get("weight_decay", 0.0))


def train(folder: Path, stop: int = 0, **options: object) -> tuple[Runner, dict[float, tuple[float, float]]]:
    rates = Rates()
    hooks = [rates, *([signal_at(stop)] if stop else [])]
    runner = toy_runner(folder, custom_hooks=[*hooks, *options.pop("hooks", [])], **options)
    if stop:
        with pytest.raises(Stopped):
            runner.train()
    else:
        runner.train()
    return runner, rates.seen


def adam(**settings: object) -> dict:
    return {"optimizer": {"type": "AdamW", "lr": 0.02, "weight_decay": 0.01, **settings}}


OLD = {"schedule": COSINE, "optim": adam()}
CHANGES = {
    "longer": {"schedule": LONGER, "epochs": 5},
    "other schedule": {"schedule": STEPS},
    "one schedule less": {"schedule": COSINE[1:]},
    "no schedule": {"schedule": []},
    "learning rate": {"optim": adam(lr=0.005)},
    "weight decay": {"optim": adam(weight_decay=0.3)},
    "batch size": {"batch_size": 4},
    "scaled with the batch": {"auto_scale_lr": {"enable": True, "base_batch_size": 8}},
    "four at once": {"schedule": LONGER, "epochs": 5, "optim": adam(lr=0.1, weight_decay=0.2), "batch_size": 3},
}


def cases():
    """Each change between two epochs, and in one; all at once and what differs most in the quick tests."""
    quick = {("four at once", 9), ("other schedule", 6)}
    for case in CHANGES:
        for stop in (6, 9):
            yield pytest.param(case, stop, id=f"{case}-{stop}", marks=[] if (case, stop) in quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Callable[..., tuple[Path, dict[float, tuple[float, float]]]]:
    """Train with the settings of a change once; the folder, and the rates."""
    made = {}

    def trained(case: str = "none", stop: int = 0) -> tuple[Path, dict[float, tuple[float, float]]]:
        if (case, stop) not in made:
            folder = tmp_path_factory.mktemp("once")
            made[case, stop] = folder, train(folder, stop=stop, **{**OLD, **CHANGES.get(case, {})})[1]
        return made[case, stop]

    return trained


@pytest.mark.parametrize(("case", "stop"), cases())
def test_rates_are_those_of_an_uninterrupted_training(case, stop, once, tmp_path):
    shutil.copytree(once(stop=stop)[0], tmp_path / "run")
    runner, resumed = train(tmp_path / "run", resume=True, **{**OLD, **CHANGES[case]})
    whole = once(case)[1]
    assert resumed == {done: whole[done] for done in resumed}
    assert len(resumed) == len([done for done in whole if done >= stop / 6 - 1e-9])
    # Every iteration that is left is counted, so that the last step takes what has been accumulated.
    assert runner.iter == runner.max_iters == stop + len(resumed)
    moments = load_weights_only(runner.message_hub.get_info("last_ckpt"))["optimizer"]["state"]
    assert all(one["step"] == runner.iter for one in moments.values())


@pytest.mark.slow
def test_iterations(tmp_path):
    loop = {"type": "IterBasedTrainLoop", "max_iters": 18}
    train(tmp_path / "run", stop=7, schedule=POLY, train_cfg=loop)
    new = {"schedule": [{**POLY[0], "end": 24}], "train_cfg": {**loop, "max_iters": 24}}
    resumed = train(tmp_path / "run", resume=True, **new)[1]
    whole = train(tmp_path / "whole", **new)[1]
    assert list(resumed.values()) == list(whole.values())[7:]


def test_groups_of_their_own(tmp_path):
    """Several groups with other rates, as every recipe has them."""
    custom = {"paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 0.1, "decay_mult": 0.0}}}}

    def groups(folder: Path, **options: object) -> list:
        runner = train(folder, **options)[0]
        return [
            (group["lr"], group["initial_lr"], group["weight_decay"]) for group in runner.optim_wrapper.param_groups
        ]

    groups(tmp_path / "run", stop=9, schedule=COSINE, optim=adam() | custom)
    new = {"schedule": LONGER, "epochs": 5, "optim": adam(lr=0.1) | custom}
    assert groups(tmp_path / "run", resume=True, **new) == groups(tmp_path / "whole", **new)


def test_returns_are_kept(tmp_path):
    """A rate that a return has lowered stays so: as it was, and where other settings are run anew."""
    back = {"cfg": {"non_finite": {"action": "go_back", "patience": 1, "lower_lr": 0.3}}}

    class Once(NoisyImages):
        spoilt = 0

        def __getitem__(self, index):
            item = super().__getitem__(index)
            Once.spoilt += 1
            if Once.spoilt == 16:  # in the second epoch
                item["inputs"] = item["inputs"] * float("nan")
            return item

    first, _ = train(tmp_path / "run", stop=10, dataset=Once(), **OLD, **back)
    assert first.guard.lr_factor == 0.3
    same = train(tmp_path / "same", **OLD)[1]
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    as_it_was = train(tmp_path / "copy", resume=True, **OLD)[1]
    for done, (rate, _) in as_it_was.items():
        assert rate == pytest.approx(0.3 * same[done][0], rel=0.05)
    new = {**OLD, "optim": adam(lr=0.04)}
    runner, changed = train(tmp_path / "run", resume=True, **new)
    assert runner.guard.lr_factor == 0.3
    for done, (rate, _) in changed.items():
        assert rate == pytest.approx(2 * as_it_was[done][0], rel=0.05)


def wider() -> ToyModel:
    model = ToyModel()
    model.head = nn.Linear(8, 3)
    return model


REFUSED = {
    "model": ({"model": wider()}, r"head.weight has the shape .2, 8. in the training to resume, and .3, 8. by the"),
    "seed": ({"randomness": {"seed": 4}}, "seed of the training to resume is 3, and 4 is given"),
    "optimizer": ({"optim": {"optimizer": {"type": "SGD", "lr": 0.02}}}, "is another one .*optimizer.type as it"),
    "groups": ({"optim": adam() | {"paramwise_cfg": {"bias_decay_mult": 0.0}}}, "has 1 groups .* makes 6: leave"),
    "amsgrad": ({"optim": adam(amsgrad=True)}, "needs a state .amsgrad"),
    "loop": (
        {"train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 18}},
        "counts epochs, and train_cfg counts iterations now",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in ("seed", "groups") else pytest.mark.slow) for case in REFUSED]
)
def test_what_cannot_be_gone_on_with_is_refused(case, tmp_path):
    change, sentence = REFUSED[case]
    train(tmp_path, epochs=1, **OLD)
    before = sorted(path.name for path in tmp_path.rglob("*.p*"))
    with pytest.raises(ConfigError, match=sentence):
        train(tmp_path, resume=True, **{**OLD, **change})
    assert sorted(path.name for path in tmp_path.rglob("*.p*")) == before


@pytest.mark.slow
def test_plateau_stays_as_it_was(tmp_path):
    plateau = {"type": "ReduceOnPlateauLR", "monitor": "mAP", "by_epoch": True, "patience": 0, "rule": "greater"}
    options = {"validate": True, "optim": adam()}
    train(tmp_path, epochs=2, schedule=[plateau], **options)
    with pytest.raises(ConfigError, match="its ReduceOnPlateau stands where the validations so far have brought it"):
        train(tmp_path, epochs=3, resume=True, schedule=[{**plateau, "patience": 3}], **options)
    train(tmp_path, epochs=3, resume=True, schedule=[plateau], **options)


def test_a_checkpoint_without_optimizer(tmp_path):
    train(tmp_path, epochs=1, checkpoint={"save_optimizer": False}, **OLD)
    with pytest.raises(CheckpointError, match="has no optimizer, as best ones have none"):
        train(tmp_path, resume=True, load_from=str(tmp_path / "epoch_1.pth"), **OLD)


def test_accumulated_gradients_of_another_count_are_dropped(tmp_path):
    train(tmp_path, stop=7, accumulation=4, **OLD)
    runner, _ = train(tmp_path, resume=True, accumulation=2, **OLD)
    assert "accumulated over 4 iterations, and are over 2 now: those that wait" in log_of(runner)


def test_best_of_another_number_begins_anew(tmp_path):
    save = {"save_best": "mAP", "rule": "greater"}
    train(tmp_path, epochs=1, validate=True, checkpoint=save, **OLD)
    runner, _ = train(tmp_path, epochs=2, validate=True, resume=True, checkpoint={**save, "save_best": "images"}, **OLD)
    assert runner.message_hub.get_info("best_score") == 7


def test_wrapper_and_averages_are_the_configs(tmp_path):
    """Mixed precision, clipping and the momentum of averaged weights come and go with the config."""
    ema = [{"type": "EMAHook", "momentum": 0.2}]
    train(tmp_path, stop=3, hooks=ema, schedule=COSINE, optim=adam())
    mixed = adam() | {"type": "CpuBf16OptimWrapper", "clip_grad": {"max_norm": 0.1}}
    runner, _ = train(tmp_path, stop=7, resume=True, hooks=[{**ema[0], "momentum": 0.1}], schedule=COSINE, optim=mixed)
    assert type(runner.optim_wrapper).__name__ == "CpuBf16OptimWrapper"
    assert runner.optim_wrapper.clip_grad_kwargs == {"max_norm": 0.1}
    averaged = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    assert averaged.ema_model.momentum == 0.1
    assert averaged.ema_model.steps == 7
    runner, _ = train(tmp_path, resume=True, hooks=ema, schedule=COSINE, optim=adam())
    assert type(runner.optim_wrapper).__name__ == "OptimWrapper"


def test_table(tmp_path):
    """One line for each setting that has changed, and none of what decides nothing."""
    cfg = {
        "model": {"type": "ToyModel"},
        "train_cfg": {"max_epochs": 2},
        "optim_wrapper": {"optimizer": {"lr": 0.02}, "clip_grad": {"max_norm": 1}},
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.2}],
        "train_dataloader": {"num_workers": 0, "batch_size": 2},
        "log_level": "INFO",
        "work_dir": "a",
    }
    first = toy_runner(tmp_path, epochs=1, cfg=cfg, optim=adam(), schedule=COSINE)
    first.train()
    new = {**cfg, "train_cfg": {"max_epochs": 3}, "train_dataloader": {"num_workers": 2, "batch_size": 2}}
    new |= {"optim_wrapper": {"optimizer": {"lr": 0.01}}, "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    second = toy_runner(tmp_path, epochs=2, cfg=new, optim=adam(lr=0.01), schedule=COSINE, resume=True)
    second.train()
    log = log_of(second)
    table = log.partition("Settings that have changed:\n")[2].partition("\n20")[0].splitlines()
    rows = [tuple(cell.strip() for cell in row.split("|")) for row in table if row.count("|") == 3]
    assert rows == [
        ("setting", "was", "now", "applied"),
        ("custom_hooks.0.momentum", "0.2", "0.1", "yes, from iteration 7 on"),
        ("optim_wrapper.clip_grad.max_norm", "1", "-", "yes, from iteration 7 on"),
        ("optim_wrapper.optimizer.lr", "0.02", "0.01", "yes, schedule rebuilt at iteration 6"),
        ("train_cfg.max_epochs", "2", "3", "yes, schedule rebuilt at iteration 6"),
        ("train_dataloader.num_workers", "0", "2", "yes, from iteration 7 on"),
    ]
    third = toy_runner(tmp_path, epochs=2, cfg=new, optim=adam(lr=0.01), schedule=COSINE, resume=True)
    third.train()
    # Two that start in the same second share a file.
    assert "Settings that have changed" not in log_of(third).removeprefix(log)


def test_a_refused_start_changes_nothing(tmp_path):
    """The config in the work dir is that of the last training that has really begun, and no test's."""
    cfg = {"randomness": {"seed": 3}}
    toy_runner(tmp_path, epochs=1, cfg=cfg, **OLD).train()
    (dump,) = tmp_path.glob("*.py")
    before = dump.read_text()
    with pytest.raises(UserError):
        toy_runner(tmp_path, epochs=1, cfg={}, resume=True, randomness={"seed": 4}, **OLD).train()
    assert [path.read_text() for path in tmp_path.glob("*.py")] == [before]


def rewritten(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the newest checkpoint of a training, as if an earlier version had written it."""
    content = load_weights_only(final(folder))
    change(content)
    torch.save(content, final(folder))


def channels_last(value: object) -> object:
    """All feature maps and kernels of a checkpoint in the layout that weights had in earlier versions."""
    return tree_map(
        lambda x: x.clone(memory_format=torch.channels_last) if isinstance(x, torch.Tensor) and x.dim() == 4 else x,
        value,
    )


@pytest.mark.parametrize("stop", [6, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_moments_of_channels_last_weights(stop, fused, tmp_path):
    """Also where gradients wait for further ones; PyTorch's fused optimizers know no strides."""
    options = {"optim": adam(fused=fused), "schedule": [], "accumulation": 2}
    for name in ("run", "older"):
        train(tmp_path / name, stop=stop, **options)

    def change(content: dict) -> None:
        for part in ("state_dict", "optimizer", "gradients"):
            if part in content:
                content[part] = channels_last(content[part])
        assert not content["optimizer"]["state"][0]["exp_avg"].is_contiguous()

    rewritten(tmp_path / "older", change)
    for name in ("run", "older"):
        runner, _ = train(tmp_path / name, resume=True, **options)
        assert all(m.is_contiguous() for one in runner.optim_wrapper.optimizer.state.values() for m in one.values())
    first, second = (tensors_of(final(tmp_path / name)) for name in ("run", "older"))
    assert not different(first, second)


class WithBackbone(ToyModel):
    """Three stages of a backbone; what follows has parameters, too."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        arch = {"embed_dims": 4, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}
        self.conv = DWNet(arch, window_size=3, out_indices=(0, 1, 2), out_norm_cfg=None)
        self.head = nn.Linear(16, 2)
        self.conv.register_forward_hook(lambda module, x, out: out[-1])

    def init_weights(self) -> None:
        """Leave them as they are."""


@pytest.mark.parametrize(
    "groups", [{}, pytest.param({"custom_keys": {"head": {"lr_mult": 2}}}, marks=pytest.mark.slow)]
)
def test_moments_of_stages_that_are_not_built_any_more(groups, tmp_path):
    """Earlier versions had them in the optimizer, which counts parameters by their place: what follows would shift."""
    options = {**OLD, "optim": adam() | {"paramwise_cfg": groups}}
    train(tmp_path, epochs=1, model=WithBackbone(), **options)

    def change(content: dict) -> None:
        later = {f"conv.stages.3.{name}": value for name, value in WithBackbone().conv.stages[2].state_dict().items()}
        names, state = list(content["state_dict"]), content["state_dict"]
        behind = [(name, state.pop(name)) for name in names if name.startswith("head")]
        state.update({**later, **dict(behind)})
        group = content["optimizer"]["param_groups"]
        more = sum(p.requires_grad for p in WithBackbone().conv.stages[2].parameters())
        if len(group) == 1:
            group[0]["params"].extend(range(len(group[0]["params"]), len(group[0]["params"]) + more))
        else:
            group.extend({**group[0], "params": [len(group) + i]} for i in range(more))

    rewritten(tmp_path, change)
    said = r"has stages that out_indices=\(0, 1, 2\) do not need, which earlier versions built"
    with pytest.raises(ConfigError, match=said):
        train(tmp_path, resume=True, model=WithBackbone(), **options)


def test_parameters_in_another_order_are_refused(tmp_path):
    train(tmp_path, epochs=1, **OLD)
    model = ToyModel()
    model.conv = model._modules.pop("conv")  # the last one now
    with pytest.raises(ConfigError, match=r"has norm.weight where that of the training to resume has conv.weight"):
        train(tmp_path, resume=True, model=model, **OLD)


class Scaler:
    """A loss scaler as far as its state goes; those of PyTorch scale on GPUs."""

    def __init__(self, **state: float) -> None:
        self.state = state

    def state_dict(self) -> dict[str, float]:
        return self.state

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.state = state


def test_the_loss_scaler_is_set_up_by_the_config_and_goes_on_with_its_scale():
    optimizer, scaler = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1), Scaler(scale=8.0, growth_interval=7)
    wrapper = SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups, loss_scaler=scaler)
    runner = SimpleNamespace(optim_wrapper=wrapper, param_schedulers=[], guard=SimpleNamespace(lr_factor=1.0))
    configured = ConfiguredState(runner)
    scaler.state = {"scale": 2.0, "growth_interval": 2000}  # the checkpoint's
    configured.apply(runner)
    assert scaler.state == {"scale": 2.0, "growth_interval": 7}
