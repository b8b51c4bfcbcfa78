"""Sizes and costs that papers and official repositories publish, computed again."""

import pytest
from conftest import REPOSITORY
from mmdet.registry import MODELS

from benchmarking.complexity import backbone_complexity, detector_complexity
from localvit_det.config import load_config

# The published parameter counts are exact; costs are published with two or three digits.
DETECTION_BACKBONES = [
    ("DWNet", "tiny", "default", 23_405_088),
    ("DynamicDWNet", "tiny", "default", 50_364_096),
    ("ShuffleTransformer", "tiny", None, 27_763_482),
    ("ShuffleTransformer", "small", None, 49_307_178),
    pytest.param("DWNet", "base", "default", 73_323_904, marks=pytest.mark.slow),
    pytest.param("DynamicDWNet", "base", "default", 160_574_720, marks=pytest.mark.slow),
    pytest.param("ShuffleTransformer", "base", None, 87_373_560, marks=pytest.mark.slow),
]
# GG has no published count that could be checked: Swin's, without its bias tables, with the Gaze kernels.
GG_TINY = 28_288_354 - 23_322 + 64_128
CLASSIFIERS = [
    ("DWNet", "tiny", True, 24_172_744),
    ("IDynamicDWNet", "tiny", True, 26_244_280),
    ("GGTransformer", "tiny", True, GG_TINY),
    ("ShuffleTransformer", "tiny", False, 28_532_482),
    ("ShuffleTransformer", "small", False, 50_076_178),
    pytest.param("DWNet", "base", True, 74_347_112, marks=pytest.mark.slow),
    pytest.param("IDynamicDWNet", "base", True, 80_253_608, marks=pytest.mark.slow),
    pytest.param("ShuffleTransformer", "base", False, 88_398_560, marks=pytest.mark.slow),
]
COSTS = [
    ("ShuffleTransformer", "tiny", 4.6),
    ("ShuffleTransformer", "small", 8.9),
    ("DWNet", "tiny", 3.8),
    ("DynamicDWNet", "tiny", 3.8),
    pytest.param("ShuffleTransformer", "base", 15.6, marks=pytest.mark.slow),
    pytest.param("DWNet", "base", 12.9, marks=pytest.mark.slow),
    pytest.param("DynamicDWNet", "base", 13.0, marks=pytest.mark.slow),
]


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("kind", "arch", "out_norm", "expected"), DETECTION_BACKBONES)
def test_detection_backbone(kind, arch, out_norm, expected):
    assert parameters(MODELS.build(dict(type=kind, arch=arch, out_norm_cfg=out_norm))) == expected


@pytest.mark.parametrize(("kind", "arch", "final_norm", "expected"), CLASSIFIERS)
def test_classifier_equivalent(kind, arch, final_norm, expected):
    """Output norms out; the final norm, where the classifier has one, and the head of 1000 classes in."""
    backbone = MODELS.build(dict(type=kind, arch=arch, out_norm_cfg=None))
    width = backbone.channels[-1]
    head = width * 1000 + 1000 + (2 * width if final_norm else 0)
    assert parameters(backbone) + head == expected


@pytest.mark.parametrize(("kind", "arch", "billions"), COSTS)
def test_multiply_adds_at_224(kind, arch, billions):
    assert backbone_complexity(dict(type=kind, arch=arch)).multiply_adds == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("config", "millions", "billions", "tolerance"),
    [
        # Without its attention products, Swin would fall short by 1%: 2% would not tell.
        ("mask_rcnn_swin_t_coco", 48, 267, 0.005),
        ("cascade_mask_rcnn_dwnet_t_3x_coco", 82, 730, 0.02),
        ("cascade_mask_rcnn_ddwnet_t_3x_coco", 108, 730, 0.02),
        pytest.param("cascade_mask_rcnn_dwnet_b_3x_coco", 132, 924, 0.02, marks=pytest.mark.slow),
        pytest.param("cascade_mask_rcnn_ddwnet_b_3x_coco", 219, 924, 0.02, marks=pytest.mark.slow),
    ],
)
def test_detector_at_1280_by_800(config, millions, billions, tolerance):
    _, detector = detector_complexity(load_config(REPOSITORY / f"configs/{config}.py").model)
    assert round(detector.parameters / 1e6) == millions
    assert detector.multiply_adds == pytest.approx(billions * 1e9, rel=tolerance)
