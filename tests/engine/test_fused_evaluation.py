"""Evaluation of a fused copy leaves the model, its weights and what others do with them alone."""

import pytest
import torch
from families import build
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook
from mmengine.runner import loops
from torch import nn
from torch.utils.data import DataLoader
from toy_training import toy_runner

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.engine import FusedEvaluationHook
from localvit_det.engine.validations import FusedTestLoop, FusedValLoop, fused_loop
from localvit_det.fused import FusedBlock, fused_copy

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """A model in MMEngine's sense, as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build("ShuffleTransformer")

    def val_step(self, data: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return [self.backbone(data)[-1]]

    test_step = val_step


class Runner:
    """What loops and hooks take from MMEngine's runner."""

    def __init__(self, model: nn.Module, *hooks: object) -> None:
        self.model, self.hooks, self.messages, self.evaluated = model, hooks, [], []
        self.logger = self
        self.fails, self.visualizer = False, None

    def info(self, message: str, *values: object) -> None:
        self.messages.append(message % values)

    def call_hook(self, name: str, **values: object) -> None:
        for hook in self.hooks:
            if "iter" not in name:
                getattr(hook, name)(self, **values)

    def evaluate(self, kind: type = FusedValLoop) -> torch.Tensor:
        """What the evaluated model gives for the image."""
        images = DataLoader([IMAGE[0]])
        self.val_loop = self.test_loop = kind(self, images, Results(self))
        assert self.val_loop.run()["images"] == 1
        assert getattr(self.val_loop, "evaluated", None) is None
        return self.evaluated[-1][1]


class Results(Evaluator):
    """Keeps what the runner's model has given, and which model that was."""

    def __init__(self, runner: Runner) -> None:
        super().__init__([])
        self.runner = runner

    def process(self, data_samples: list, data_batch: object) -> None:
        self.runner.evaluated.append((self.runner.model, data_samples[0]))
        if self.runner.fails:
            raise RuntimeError("no room")

    def evaluate(self, size: int) -> dict[str, int]:
        return {"images": size}


def is_fused(model: nn.Module) -> bool:
    return any(isinstance(m, FusedBlock) for m in model.modules())


def test_copy_shares_weights_and_leaves_the_model_alone():
    model = Detector().train()
    before = dict(model.named_modules())
    copy = fused_copy(model)
    assert dict(model.named_modules()) == before
    assert all(m.training for m in model.modules())
    assert isinstance(copy.backbone.stages[0].blocks[0], FusedBlock)
    assert copy.backbone.stages[1].downsample.norm.weight is model.backbone.stages[1].downsample.norm.weight


@pytest.mark.parametrize("kind", [FusedValLoop, FusedTestLoop])
def test_evaluation_runs_a_fused_copy(kind):
    model = Detector().eval()
    runner = Runner(model)
    expected, names = model.val_step(IMAGE)[0], set(model.state_dict())
    torch.testing.assert_close(runner.evaluate(kind), expected, rtol=1e-4, atol=1e-4)
    assert is_fused(runner.evaluated[0][0])
    assert runner.model is model
    assert not is_fused(model)
    assert set(model.state_dict()) == names


def test_the_model_is_back_after_an_error():
    model = Detector()
    runner = Runner(model)
    runner.fails = True
    with pytest.raises(RuntimeError, match="no room"):
        runner.evaluate()
    assert runner.model is model


def test_evaluation_uses_averaged_weights():
    model = Detector().eval()
    ema = EMAHook()
    ema.before_run(Runner(model))
    with torch.no_grad():
        for parameter in ema.ema_model.module.parameters():
            parameter.mul_(1.5)
    averaged, own = ema.ema_model.module.val_step(IMAGE)[0], model.val_step(IMAGE)[0]
    torch.testing.assert_close(Runner(model, ema).evaluate(), averaged, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.val_step(IMAGE)[0], own)


def test_hooks_of_others_are_heard():
    model, heard = Detector().eval(), []
    model.backbone.stages[0].blocks[0].mlp.register_forward_hook(lambda *_: heard.append(1))
    runner = Runner(model)
    runner.evaluate(FusedTestLoop)
    assert heard == [1]
    assert runner.messages == [
        "Evaluation runs the model unfused, because forward hooks listen to 'backbone.stages.0.blocks.0.mlp'."
    ]


@pytest.mark.parametrize("loop", [{}, {"type": "ValLoop"}, {"type": "mmengine.ValLoop", "fp16": True}], ids=str)
def test_the_hook_asks_for_the_fused_loop(loop):
    assert fused_loop(loop, FusedValLoop, [FusedEvaluationHook()]) == {**loop, "type": FusedValLoop}
    assert fused_loop(loop, FusedValLoop, [EMAHook()]) is loop


def test_other_loops_stay_and_are_reported():
    loop = {"type": "MyLoop"}
    assert fused_loop(loop, FusedValLoop, [FusedEvaluationHook()]) is loop
    for kind in (loops.ValLoop, loops.TestLoop):
        runner = Runner(Detector().eval(), FusedEvaluationHook())
        runner.evaluate(kind)
        assert runner.messages == [f"Evaluation runs the model unfused, because its loop is {kind.__name__}."]


def test_the_runner_trains_and_saves_the_model_and_validates_the_copy(tmp_path):
    hook = {"type": "FusedEvaluationHook"}
    runner = toy_runner(tmp_path, epochs=1, validate=True, custom_hooks=[hook], checkpoint={"save_best": "mAP"})
    model = runner.model
    runner.train()
    assert type(runner.val_loop) is FusedValLoop
    assert runner.model is model
    best = next(tmp_path.glob("best_*.pth"))
    assert load_weights_only(best)["state_dict"].keys() == model.state_dict().keys()
