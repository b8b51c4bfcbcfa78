"""`--auto-scale-lr` scales with the batch of an optimizer's step."""

import pytest
from toy_training import toy_runner

REPORT = [{"type": "TrainingReportHook"}]


@pytest.mark.parametrize(("accumulation", "rate"), [(1, 0.0025), (4, 0.01), (8, 0.02)])
def test_accumulated_batches_count(accumulation, rate, tmp_path):
    """0.02 is meant for 16 images; a batch has 2."""
    scaling = {"enable": True, "base_batch_size": 16}
    runner = toy_runner(tmp_path, accumulation=accumulation, auto_scale_lr=scaling, epochs=1, custom_hooks=REPORT)
    runner.train()
    assert runner.optim_wrapper.param_groups[0]["initial_lr"] == pytest.approx(rate)
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert f"learning rate {rate:.3g}" in log
    assert f"scaled by {2 * accumulation / 16:g}, from a batch of 16 to one of {2 * accumulation}." in log


@pytest.mark.parametrize("base", [8, 16])
def test_advice_counts_them_too(base, tmp_path):
    toy_runner(
        tmp_path,
        accumulation=4,
        auto_scale_lr={"enable": False, "base_batch_size": base},
        epochs=1,
        custom_hooks=REPORT,
    ).train()
    assert ("--auto-scale-lr" in next(tmp_path.glob("*/*.log")).read_text()) is (base != 8)
