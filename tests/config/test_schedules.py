"""Warm-ups and schedules that fit the length of a training."""

import pytest
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from toy_training import log_of, toy_runner

from localvit_det.config import load_config
from localvit_det.config.short_settings import explain_unfit_epochs, fit_warm_up, stretch_schedules, stretch_switches

BASE = 1.0
COCO = load_config("mask_rcnn_shuffle_t_coco").param_scheduler
NANO = load_config("mask_rcnn_shuffle_nano_shapes").param_scheduler


def factors(schedulers: list[dict], iterations: int, epoch_length: int) -> list[float]:
    """The factor of the learning rate in each iteration."""
    wrapper = build_optim_wrapper(nn.Linear(1, 1), {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}})
    assert isinstance(wrapper, OptimWrapper)
    built = [
        PARAM_SCHEDULERS.build(dict(one), default_args={"optimizer": wrapper, "epoch_length": epoch_length})
        if not one.get("convert_to_iter_based")
        else PARAM_SCHEDULERS.get(one["type"]).build_iter_from_epoch(
            optimizer=wrapper,
            epoch_length=epoch_length,
            **{key: value for key, value in one.items() if key not in ("type", "convert_to_iter_based")},
        )
        for one in schedulers
    ]
    found = []
    for iteration in range(1, iterations + 1):
        found.append(wrapper.param_groups[0]["lr"])
        wrapper.optimizer.step()
        for one in built:
            if not one.by_epoch or iteration % epoch_length == 0:
                one.step()
    return found


def test_short_training_leaves_the_warm_up():
    """80 images in batches of 2, 12 epochs: with COCO's warm-up of 1000 iterations the rate never came to its own."""
    assert max(factors(COCO[:1], 480, 40)) < 0.5
    fitted, message = fit_warm_up(COCO, 480)
    assert max(factors(fitted[:1], 480, 40)) == 1
    assert fitted[0]["end"] == 48
    assert fitted[1] == dict(COCO[1])
    assert (
        "warm-up of 1000 iterations would fill most of this training of 480: it is cut to 48 (fit_warmup=False"
        in message
    )
    assert COCO[0]["end"] == 1000


@pytest.mark.parametrize(
    ("schedulers", "iterations"), [(COCO, 3000), (COCO, 90_000), (NANO, 400), (NANO, 150), ([], 9)]
)
def test_others_stay(schedulers, iterations):
    fitted, message = fit_warm_up(schedulers, iterations)
    assert fitted == [dict(one) for one in schedulers]
    assert message is None


def test_what_follows_the_warm_up_begins_earlier():
    schedulers = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=100, T_max=50),
    ]
    fitted, _ = fit_warm_up(schedulers, 100)
    assert (fitted[0]["end"], fitted[1]["begin"], fitted[1]["T_max"], fitted[1]["end"]) == (10, 10, 90, 100)
    found = factors(fitted, 100, 100)
    assert found[10] == pytest.approx(1)
    assert found[-1] < 0.01


def test_shortest():
    fitted, _ = fit_warm_up(COCO, 3)
    assert factors(fitted[:1], 3, 3) == pytest.approx([0.001, 1, 1])


def test_epochs_that_do_not_fit_are_named():
    assert explain_unfit_epochs(COCO, 12) is None
    message = explain_unfit_epochs(COCO, 24)
    assert "made for 12 epochs, and the training has 24" in message
    assert "param_scheduler.1.end=24 param_scheduler.1.milestones=[16,22]" in message
    assert "param_scheduler.1.end=3" in explain_unfit_epochs(NANO, 3)
    assert explain_unfit_epochs([], 3) is None


def test_switches_of_pipelines_follow_another_length():
    hooks = [dict(type="EMAHook"), dict(type="PipelineSwitchHook", switch_epoch=9)]
    assert stretch_switches(hooks, 12, 24) == {"custom_hooks.1.switch_epoch": 21}  # as many last epochs
    assert stretch_switches(hooks, 12, 2) == {"custom_hooks.1.switch_epoch": 2}
    assert explain_unfit_epochs(COCO, 12, hooks) is None
    assert "param_scheduler.1.milestones=[16,22] custom_hooks.1.switch_epoch=21." in explain_unfit_epochs(
        COCO, 24, hooks
    )
    hooks[1]["switch_epoch"] = 12
    assert "custom_hooks.1.switch_epoch=12 is never reached in a training of 12 epochs" in explain_unfit_epochs(
        COCO, 12, hooks
    )


def test_schedules_follow_another_length():
    poly = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=100, T_max=50),
        dict(type="MultiStepLR", by_epoch=False, begin=50, end=100, milestones=[40, 80]),
    ]
    assert stretch_schedules(poly, 100, 200, by_epoch=False) == {
        "param_scheduler.1.begin": 50,
        "param_scheduler.1.end": 200,
        "param_scheduler.1.T_max": 150,
        "param_scheduler.2.begin": 50,
        "param_scheduler.2.end": 200,
        "param_scheduler.2.milestones": [40, 160],
    }
    assert stretch_schedules(poly, 90, 200, by_epoch=False) == {}  # made for another length
    assert stretch_schedules(poly, 100, 200, by_epoch=True) == {}
    alone = [dict(type="CosineAnnealingLR", T_max=12)]
    assert stretch_schedules(alone, 12, 24, by_epoch=True) == {"param_scheduler.0.T_max": 24}
    assert stretch_schedules(COCO, 12, 24, by_epoch=True)["param_scheduler.1.milestones"] == [16, 22]


@pytest.mark.parametrize(("settings", "end"), [({}, 2), ({"cfg": {"fit_warmup": False}}, 10)])
def test_warm_up_in_a_training(tmp_path, settings, end):
    runner = toy_runner(tmp_path, epochs=1, **settings)  # 6 iterations, and a warm-up of 10
    runner.train()
    assert runner.param_schedulers[0].end == end
    cut = "The warm-up of 10 iterations would fill most of this training of 6: it is cut to 2"
    assert (cut in log_of(runner)) is (end == 2)
