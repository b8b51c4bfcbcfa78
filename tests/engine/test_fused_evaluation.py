"""Evaluation with the fused form leaves the model, its weights and what others do with them alone."""

import pytest
import torch
from families import build
from mmengine.hooks import EMAHook
from torch import nn

from localvit_det.engine import FusedEvaluationHook
from localvit_det.fused import FusedBlock, fused_copy


class Detector(nn.Module):
    """A model in MMEngine's sense, as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build("ShuffleTransformer")

    def val_step(self, data: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.backbone(data)[-1]

    test_step = val_step


class Runner:
    """What the hook takes from MMEngine's runner."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.messages = model, []
        self.logger = self

    def info(self, message: str, *values: object) -> None:
        self.messages.append(message % values)


def test_twin_shares_weights_and_leaves_the_model_alone():
    model = Detector().train()
    before = dict(model.named_modules())
    twin = fused_copy(model)
    assert dict(model.named_modules()) == before
    assert all(m.training for m in model.modules())
    assert isinstance(twin.backbone.stages[0].blocks[0], FusedBlock)
    assert twin.backbone.stages[1].downsample.norm.weight is model.backbone.stages[1].downsample.norm.weight


@pytest.mark.parametrize("mode", ["val", "test"])
def test_evaluation_is_fused_while_it_lasts(mode):
    model = Detector().eval()
    runner, hook = Runner(model), FusedEvaluationHook()
    image = torch.randn(1, 3, 64, 64)
    expected = model.val_step(image)
    names = set(model.state_dict())
    getattr(hook, f"before_{mode}_epoch")(runner)
    step = getattr(model, f"{mode}_step")
    assert any(isinstance(m, FusedBlock) for m in step.__self__.modules())
    torch.testing.assert_close(step(image), expected, rtol=1e-4, atol=1e-4)
    assert set(model.state_dict()) == names
    getattr(hook, f"after_{mode}_epoch")(runner)
    assert getattr(model, f"{mode}_step").__self__ is model


def test_evaluation_uses_averaged_weights():
    model = Detector().eval()
    runner, ema, hook = Runner(model), EMAHook(), FusedEvaluationHook()
    ema.before_run(runner)
    with torch.no_grad():
        for parameter in ema.ema_model.module.parameters():
            parameter.mul_(1.5)
    image = torch.randn(1, 3, 64, 64)
    averaged = ema.ema_model.module.val_step(image)
    own = model.val_step(image)
    assert hook.priority == "VERY_LOW"  # MMEngine calls it after EMAHook
    ema.before_val_epoch(runner)
    hook.before_val_epoch(runner)
    torch.testing.assert_close(model.val_step(image), averaged, rtol=1e-4, atol=1e-4)
    ema.after_val_epoch(runner)
    hook.after_val_epoch(runner)
    assert torch.equal(model.val_step(image), own)


def test_hooks_of_others_are_heard():
    model = Detector().eval()
    runner, hook, heard = Runner(model), FusedEvaluationHook(), []
    block = model.backbone.stages[0].blocks[0]
    block.mlp.register_forward_hook(lambda *_: heard.append(1))
    hook.before_test_epoch(runner)
    model.test_step(torch.randn(1, 3, 64, 64))
    hook.after_test_epoch(runner)
    assert heard == [1]
    assert runner.messages == [
        "Evaluation runs the model unfused, because forward hooks listen to 'backbone.stages.0.blocks.0.mlp'."
    ]
