"""Fused detectors find the same boxes, classes and masks."""

import copy

import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from small_detectors import DETECTORS, build_detector
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.fused import fuse_detector
from localvit_det.fused.dense import FusedFPN, FusedResidualBlock, best_of
from localvit_det.fused.roi_heads import paste_masks
from localvit_det.requirements import has_compiled_operators

SIZE = (160, 224)
META = {"img_shape": SIZE, "ori_shape": (80, 112), "scale_factor": (2.0, 2.0), "batch_input_shape": SIZE}


def predict(model: nn.Module, images: torch.Tensor) -> list[InstanceData]:
    """Predictions for a batch of images that were scaled by two."""
    samples = [DetDataSample(metainfo=META) for _ in images]
    with torch.no_grad():
        return [sample.pred_instances for sample in model.predict(images, samples)]


def plain_layers(model: nn.Module) -> list[str]:
    """Names of convolutions and dense layers that were not replaced; the backbone's and depth-wise ones aside."""
    plain = ("Conv2d", "Linear", "ConvTranspose2d")
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in plain and not name.startswith("backbone")
    ]


@pytest.mark.skipif(has_compiled_operators(), reason="the compiled NMS takes fp32 only")
@pytest.mark.parametrize("name", DETECTORS)
def test_same_boxes(name):
    model = build_detector(name).double()
    if hasattr(model, "roi_head"):
        model.roi_head.mask_head = None  # MMDetection pastes masks in fp32 only
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    expected = predict(model, images)
    assert fuse_detector(model) is model
    for found, wanted in zip(predict(model, images), expected, strict=True):
        assert len(wanted) > 5
        torch.testing.assert_close(found.bboxes, wanted.bboxes, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-8, atol=1e-8)
        assert torch.equal(found.labels, wanted.labels)


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade"])
def test_same_masks(name):
    model = build_detector(name)
    fused = fuse_detector(copy.deepcopy(model))
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        maps, fused_maps = model.extract_feat(images), fused.extract_feat(images)
    for found, wanted in zip(fused_maps, maps, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found = predict(model, images)
    given = [InstanceData(bboxes=one.bboxes * 2, labels=one.labels) for one in found]
    for threshold in (0.5, -1):  # -1: probabilities, as bytes
        masks = []
        for head in (model.roi_head, fused.roi_head):
            head.test_cfg.mask_thr_binary = threshold
            with torch.no_grad():
                masks.append(head.predict_mask(maps, [META, META], copy.deepcopy(given), rescale=True))
        for one, other in zip(*masks, strict=True):
            assert torch.equal(one.bboxes, other.bboxes)
            assert one.masks.dtype == other.masks.dtype
            assert one.masks.any() or name == "cascade"
            difference = (one.masks.int() - other.masks.int()).abs()
            assert difference.max() <= 1
            assert difference.float().mean() < 1e-3


@pytest.mark.parametrize("name", DETECTORS)
def test_everything_is_replaced_once_and_what_was_given_to_a_form_stays(name):
    model = build_detector(name)
    names = set(model.state_dict())
    parts = {part: module for part, module in model.named_children() if part != "backbone"}
    before = {part: [type(m) for m in module.modules()] for part, module in parts.items()}
    fuse_detector(model)
    assert not plain_layers(model)
    assert isinstance(model.neck, FusedFPN)
    new = {key for key in model.state_dict() if not key.startswith("backbone")} - names
    assert all(key.endswith(".bias") for key in new)  # of folded norms
    if name == "mask_rcnn_resnet":
        assert sum(isinstance(m, FusedResidualBlock) for m in model.backbone.modules()) == 16
        assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    for part, module in parts.items():
        assert [type(m) for m in module.modules()] == before[part]

    modules = list(model.modules())
    fuse_detector(model)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_new_weights_are_used():
    model = build_detector("mask_rcnn")
    fused = fuse_detector(copy.deepcopy(model))
    images = torch.randn(1, 3, *SIZE)
    predict(fused, images)  # packs
    with torch.no_grad():
        for part in ("neck", "rpn_head", "roi_head"):
            for net in (model, fused):
                torch.manual_seed(1)
                for parameter in getattr(net, part).parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        wanted, found = (
            [*net.neck(net.backbone(images)), *net.rpn_head(net.extract_feat(images))[0]] for net in (model, fused)
        )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_bf16_keeps_boxes_exact():
    """Autocast takes anchors and boxes along in MMDetection, which rounds them to eight pixels and breaks masks."""
    model = fuse_detector(build_detector("mask_rcnn"))
    maps = [torch.randn(1, 64, 250 // 2**i, 250 // 2**i) for i in range(4)]
    rois = torch.tensor([[0, 803.3, 801.7, 853.3, 851.7], [0, 601.1, 503.3, 901.1, 803.3]])
    extract = model.roi_head.bbox_roi_extractor
    with torch.no_grad():
        expected = extract(maps, rois)
        found = extract([m.bfloat16() for m in maps], rois)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)

    with torch.autocast("cpu", torch.bfloat16):
        (one,) = predict(model, torch.randn(1, 3, *SIZE))
        with torch.no_grad():
            scores, deltas = model.rpn_head([m.bfloat16() for m in maps])
    assert one.bboxes.dtype == one.scores.dtype == scores[0].dtype == deltas[0].dtype == torch.float32
    assert one.masks.shape[1:] == META["ori_shape"]
    assert len(one) > 5


def test_gradients_are_recorded_as_before():
    model = build_detector("mask_rcnn")
    fused = fuse_detector(copy.deepcopy(model))
    images = torch.randn(1, 3, *SIZE)
    for net in (model, fused):
        net.neck(net.backbone(images))[0].square().mean().backward()
    wanted, found = (dict(net.neck.named_parameters()) for net in (model, fused))
    for key, parameter in wanted.items():
        if parameter.grad is not None:
            torch.testing.assert_close(found[key].grad, parameter.grad, rtol=1e-3, atol=1e-5)


def test_fused_detector_can_be_copied_and_fed_nothing():
    model = fuse_detector(build_detector("mask_rcnn"))
    images = torch.randn(1, 3, *SIZE)
    expected = predict(model, images)[0]
    assert torch.equal(predict(copy.deepcopy(model), images)[0].bboxes, expected.bboxes)
    model.roi_head.test_cfg.score_thr = 1.0
    (found,) = predict(model, images)
    assert len(found) == 0
    assert found.masks.shape == (0, *META["ori_shape"])


def test_unusual_parts_stay():
    cfg = DETECTORS["mask_rcnn"]()
    cfg.roi_head.mask_head.upsample_cfg = {"type": "bilinear", "scale_factor": 2}
    cfg.roi_head.bbox_roi_extractor.roi_layer.pool_mode = "max"
    cfg.neck.upsample_cfg = {"mode": "bilinear", "align_corners": False}
    model = MODELS.build(cfg).eval()
    maps = model.extract_feat(torch.randn(1, 3, *SIZE))
    mask_head, extractor = model.roi_head.mask_head, model.roi_head.bbox_roi_extractor
    fuse_detector(model)
    assert type(model.roi_head.mask_head) is type(mask_head)
    assert model.roi_head.bbox_roi_extractor is extractor
    with torch.no_grad():
        for found, wanted in zip(model.extract_feat(torch.zeros(1, 3, *SIZE)), maps, strict=True):
            assert found.shape == wanted.shape


def test_best_scores_as_a_stable_sort_gives_them():
    scores = torch.randint(0, 50, (1000,)).float()
    expected = torch.sort(scores, descending=True, stable=True).indices
    for count in (1, 10, 37, 999):
        assert torch.equal(best_of(scores, count), expected[:count])


def test_masks_as_mmdetection_pastes_them():
    boxes = [[-9.0, -5, 7, 9], [20, 10, 60, 50], [3.3, 5.7, 29.1, 19.4], [8, 2, 8, 9]]
    beyond = torch.tensor([[40.0, 40, 60, 60]])
    assert not paste_masks(torch.ones(1, 14, 14), beyond, 24, 32, 0.5).any()
    boxes, masks = torch.tensor(boxes), torch.rand(4, 14, 14)
    for threshold in (0.5, -1):
        found = paste_masks(masks, boxes, 24, 32, threshold)
        assert found.shape == (4, 24, 32)
        for mask, box, one in zip(masks, boxes, found, strict=True):
            values, (rows, columns) = _do_paste_mask(mask[None, None], box[None], 24, 32)
            wanted = torch.zeros(24, 32)
            wanted[rows, columns] = values[0]
            wanted = wanted >= threshold if threshold >= 0 else wanted.nan_to_num(0) * 255
            # Bytes are cut off, not rounded: next to a whole number they may differ by one.
            assert (one.float() - wanted.float()).abs().max() <= (0 if threshold >= 0 else 1.01)
