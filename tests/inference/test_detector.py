"""Fused detectors find the same boxes, classes and masks."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.config import load_config
from localvit_det.inference import fuse_detector

SIZE = (160, 224)


def build(config: str, **options) -> nn.Module:
    """A detector with random weights that finds something: its classifier is made to be sure of itself."""
    init_default_scope("mmdet")
    torch.manual_seed(0)
    cfg = load_config(f"configs/{config}.py", {f"model.{k}": v for k, v in options.items()})
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        for name, parameter in model.named_parameters():
            if name.endswith(("fc_cls.weight", "retina_cls.weight", "fc_reg.weight", "rpn_reg.weight")):
                parameter.mul_(10)
    return model


def predict(model: nn.Module, image: torch.Tensor) -> list:
    """Predictions for a batch of images, scaled to half their size."""
    samples = []
    for _ in image:
        meta = {"img_shape": SIZE, "ori_shape": (SIZE[0] // 2, SIZE[1] // 2), "scale_factor": (2.0, 2.0)}
        samples.append(DetDataSample(metainfo={**meta, "batch_input_shape": SIZE, "pad_shape": SIZE}))
    with torch.no_grad():
        return [sample.pred_instances for sample in model.predict(image, samples)]


MODELS_UNDER_TEST = [
    ("mask_rcnn_shuffle_nano_shapes", {}),
    ("mask_rcnn_swin_nano_shapes", {}),
]


@pytest.mark.parametrize(("config", "options"), MODELS_UNDER_TEST)
def test_same_predictions(config, options):
    model = build(config, **options)
    image = torch.randn(2, 3, *SIZE)
    expected = predict(model, image)
    assert fuse_detector(model) is model
    found = predict(model, image)
    for a, b in zip(found, expected, strict=True):
        assert len(b) > 5
        assert len(a) == len(b)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-4)
        assert torch.equal(a.labels, b.labels)
        assert (a.masks != b.masks).float().mean() < 1e-4
