"""Coordinates stay in fp32 under mixed precision."""

import importlib

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.optim import build_optim_wrapper
from small_detectors import build_detector, model_of

HALF = [torch.bfloat16, torch.float16]
EXTRACTORS = {"SingleRoIExtractor": {}, "GenericRoIExtractor": {"aggregation": "sum"}}


def extractor(kind: str) -> torch.nn.Module:
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}
    settings = {"roi_layer": layer, "out_channels": 8, "featmap_strides": [4, 8], **EXTRACTORS[kind]}
    return MODELS.build({"type": kind, **settings})


@pytest.fixture
def boxes() -> torch.Tensor:
    """RoIs (R, 5) all over an image of 900×1333 pixels, at fractions of a pixel that no half precision keeps."""
    corners = torch.rand(40, 2) * torch.tensor([1100.0, 650.0])
    return torch.cat((torch.zeros(40, 1), corners, corners + 20 + 200 * torch.rand(40, 2)), dim=1)


@pytest.fixture
def maps() -> list[torch.Tensor]:
    return [torch.randn(1, 8, 225, 334), torch.randn(1, 8, 113, 167)]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", EXTRACTORS)
def test_roi_features_are_those_of_fp32_boxes(kind, dtype, boxes, maps, monkeypatch):
    maps = [m.to(dtype).requires_grad_() for m in maps]
    exact = [m.detach().float().requires_grad_() for m in maps]
    extract = extractor(kind)
    wanted = extract(exact, boxes)
    direction = torch.randn(wanted.shape)
    wanted_grads = torch.autograd.grad((wanted * direction).sum(), exact)
    # A compiled operator takes maps and boxes of one type only.
    extension = importlib.import_module("mmcv.ops.roi_align").ext_module
    original, kinds = extension.roi_align_forward, set()

    def forward(x, rois, *args, **settings):
        kinds.add((x.dtype, rois.dtype))
        original(x, rois, *args, **settings)

    monkeypatch.setattr(extension, "roi_align_forward", forward)
    with torch.autocast("cpu", dtype):
        found = extract(maps, boxes)
    assert kinds == {(torch.float32, torch.float32)}
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
    for grad, wanted_grad in zip(torch.autograd.grad((found * direction).sum(), maps), wanted_grads, strict=True):
        assert (grad.float() - wanted_grad).norm() < 5e-3 * wanted_grad.norm()  # rounded once
    # Without autocast the layers after it are in half precision, too.
    assert extract(maps, boxes).dtype == dtype
    assert extract(maps, boxes[:0]).shape == (0, 8, 7, 7)


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade"])
def test_training_in_bf16_extracts_with_fp32_boxes(name):
    model = build_detector(name).train()
    seen = []

    def keep(module, inputs, output):
        seen.append((module, [m.detach() for m in inputs[0]], inputs[1].detach(), output.detach()))

    for module in model.roi_head.modules():
        if type(module).__name__ == "SingleRoIExtractor":
            module.register_forward_hook(keep)
    data = model.data_preprocessor(demo_mm_inputs(2, [(3, 320, 512)] * 2, num_classes=3, with_mask=True), True)
    settings = {"type": "CpuBf16OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}}
    with build_optim_wrapper(model, settings).optim_context(model):
        model(**data, mode="loss")
    assert len(seen) == {"mask_rcnn": 2, "cascade": 6}[name]
    for module, maps, rois, features in seen:
        assert maps[0].dtype == torch.bfloat16
        assert rois.dtype == torch.float32
        assert not torch.equal(rois.bfloat16().float(), rois)  # neither made of priors in bf16
        wanted = module.forward([m.float() for m in maps], rois)
        assert (features.float() - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("dtype", HALF)
def test_priors_are_those_of_fp32(dtype):
    anchors = AnchorGenerator([4, 8], [0.5, 1.0, 2.0], scales=[8])
    points = MlvlPointGenerator([4, 8], offset=0.37)
    for generator, settings in ((anchors, {}), (points, {}), (points, {"with_stride": True})):
        wanted = generator.grid_priors([(230, 340), (115, 170)], device="cpu", **settings)
        found = generator.grid_priors([(230, 340), (115, 170)], dtype=dtype, device="cpu", **settings)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        chosen = torch.tensor([77_777, 5, 9_999])
        sparse = generator.sparse_priors(chosen, (230, 340), 0, dtype, "cpu")
        torch.testing.assert_close(sparse, wanted[0][chosen][:, : sparse.shape[1]], rtol=0, atol=0)
    assert anchors.grid_priors([(2, 2), (1, 1)], torch.float64, "cpu")[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", HALF)
def test_attention_samples_at_fp32_places(dtype):
    sizes, starts = torch.tensor([[100, 160], [50, 80]]), torch.tensor([0, 16_000])
    places, weights = torch.rand(1, 30, 2, 2, 3, 2), torch.rand(1, 30, 2, 2, 3)
    values = torch.randn(1, 20_000, 2, 4).to(dtype)
    results = []
    for value in (values.clone(), values.float()):
        inputs = value.requires_grad_(), places.clone().requires_grad_()
        output = MultiScaleDeformableAttnFunction.apply(inputs[0], sizes, starts, inputs[1], weights, 64)
        results.append((output, *torch.autograd.grad(output.float().sum(), inputs)))
    assert results[0][0].dtype == results[0][1].dtype == dtype
    for found, wanted in zip(*results, strict=True):
        assert (found.float() - wanted).norm() < 4e-3 * wanted.norm()  # rounded once


def test_dino_finds_boxes_in_fp32_under_autocast():
    branch = {"num_classes": 3, "embed_dims": 16, "num_reg_fcs": 2, "share_pred_layer": False, "num_pred_layer": 2}
    loss = {"type": "FocalLoss", "use_sigmoid": True}
    head = MODELS.build({"type": "DINOHead", **branch, "loss_cls": loss})
    states, references = torch.randn(2, 1, 50, 16), [torch.rand(1, 50, 4) for _ in range(2)]
    wanted = head(states, references)[1]
    with torch.autocast("cpu", torch.bfloat16):
        found = head(states, references)[1]
        named = head(hidden_states=states, references=references)[1]  # as the detector's mode="tensor" does
    assert (found - wanted).abs().max() < 1e-6  # 1e-3 is more than a pixel
    assert torch.equal(named, found)


def test_rtmdet_computes_masks_in_fp32_under_autocast():
    head = MODELS.build(model_of("rtmdet_ins_shuffle_t_coco").bbox_head)
    prototypes, kernels = torch.randn(8, 40, 60), torch.randn(5, sum(head.weight_nums) + sum(head.bias_nums))
    priors = torch.cat((torch.rand(5, 2) * 500, torch.full((5, 2), 8.0)), dim=1)
    wanted = head._mask_predict_by_feat_single(prototypes.bfloat16().float(), kernels, priors)
    with torch.autocast("cpu", torch.bfloat16):
        found = head._mask_predict_by_feat_single(prototypes.bfloat16(), kernels, priors)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
