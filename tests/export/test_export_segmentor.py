"""Exported segmentors find the same class at each pixel; skipped where the extra `seg` is not installed."""

import copy

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det import Detector
from localvit_det.checkpoint.exported import NOTE, Info, read_info
from localvit_det.config import load_config
from localvit_det.config.pipelines import image_pipeline, prepare
from localvit_det.errors import ConfigError, ExportError
from localvit_det.export.comparison import PixelAgreement, check_pixels, compare_on, find
from localvit_det.export.detector import export_detector, exportable, synthetic_image
from localvit_det.export.formats import unlisted_operators
from localvit_det.export.quantize import quantize
from localvit_det.export.runtime import ExportedDetector, run_exported
from localvit_det.export.segmentor import AveragePooling, Doubling

pytest.importorskip("mmseg", reason="the extra seg is not installed")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Makes files of segmentors with random weights, each once."""
    made = {}

    def publish(head: str) -> Detector:
        if head not in made:
            from mmseg.registry import MODELS

            cfg = load_config(f"configs/{head}_shuffle_nano_shapes.py")
            cfg.model.backbone.arch.depths = (1, 1, 1, 1)  # export/test_export_backbone.py has both kinds of blocks
            init_default_scope("mmseg")
            torch.manual_seed(0)
            model = MODELS.build(cfg.model)
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    nn.init.normal_(module.running_mean, std=0.1)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
            with torch.no_grad():
                model.decode_head.conv_seg.weight.mul_(10)  # no class everywhere
            meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": ["circle", "square", "triangle", "ground"]}}
            made[head] = tmp_path_factory.mktemp(head) / f"{head}.pth"
            torch.save({"state_dict": model.state_dict(), "meta": meta}, made[head])
        return Detector(made[head], device="cpu", fuse=False)

    return publish


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "suffix", "half"), [("upernet", "onnx", False), ("sem_fpn", "xml", False), ("sem_fpn", "onnx", True)]
)
def test_same_classes_at_any_size(head, suffix, half, published, tmp_path):
    """The comparison that every export makes, and one of ours at a size that no exporter has seen."""
    pytest.importorskip("onnxruntime" if suffix == "onnx" else "openvino")
    segmentor, path = published(head), tmp_path / f"found.{suffix}"
    for one in export_detector(segmentor, path, half=half):
        assert one.mismatches < (2e-3 if half else 1e-4)
        assert 0 < one.error < (2e-3 if half else 1e-5)
    if suffix == "onnx":
        assert unlisted_operators(path)[0] == []
    pipeline = image_pipeline(segmentor.config)
    one = prepare(pipeline, synthetic_image((203, 150), seed=9))
    exported = ExportedDetector(path)
    ours = find(segmentor.model, exported.info, one).pred_sem_seg.data
    theirs = exported.test_step({"inputs": [one["inputs"]], "data_samples": [copy.deepcopy(one["data_samples"])]})[0]
    assert len(ours.unique()) >= 2
    assert theirs.pred_sem_seg.data.shape == ours.shape == (1, 203, 150)
    assert (theirs.pred_sem_seg.data != ours).double().mean() < (2e-3 if half else 1e-4)
    # What those read who do not resize logits themselves.
    image, size = exported.info.input_of(one["inputs"])
    classes = dict(zip(exported.info.outputs, exported.run(image, size), strict=True))["classes"]
    assert (classes != ours[0]).double().mean() < (2e-3 if half else 1e-4)


@pytest.mark.slow
def test_fixed_size(published, tmp_path):
    """Padding is part of what is compared, and cut off."""
    pytest.importorskip("onnxruntime")
    segmentor, path = published("upernet"), tmp_path / "found.onnx"
    pipeline = segmentor.config.test_dataloader.dataset.pipeline
    pipeline.insert(1, {"type": "Resize", "scale": (160, 160), "keep_ratio": True})
    export_detector(segmentor, path, size=(96, 130))
    assert read_info(path).size == (96, 130)
    one = prepare(image_pipeline(segmentor.config, (96, 130)), synthetic_image((60, 60), seed=9))
    logits = ExportedDetector(path).logits(one["inputs"], one["data_samples"])
    torch.testing.assert_close(
        logits, find(segmentor.model, read_info(path), one).seg_logits.data, rtol=1e-3, atol=1e-4
    )
    assert logits.shape == (4, 60, 60)


@pytest.mark.slow
def test_wrong_models_are_refused(published):
    """What takes the colors in another order than the segmentor finds other classes."""
    segmentor = published("sem_fpn")
    form = exportable(segmentor.model)
    info = Info((), "", None, 1, 0.0, outputs=tuple(form.outputs))
    prepared = [prepare(image_pipeline(segmentor.config), synthetic_image((96, 128), seed=9))]
    with torch.no_grad():
        compare_on(segmentor.model, ExportedDetector(form, info), prepared)
        form.swap = not form.swap
        with pytest.raises(ExportError, match=r"finds other classes: at .* logits differ by"):
            compare_on(segmentor.model, ExportedDetector(form, info), prepared)


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_each_difference_counts(error):
    check_pixels([PixelAgreement((9, 9), 0.0, 1e-5)])
    for wrong in (PixelAgreement((9, 9), 0.0, error), PixelAgreement((9, 9), 0.1, 1e-5)):
        with pytest.raises(ExportError, match="finds other classes"):
            check_pixels([PixelAgreement((9, 9), 0.0, 1e-5), wrong])


def test_what_has_no_form_is_named(published, tmp_path):
    segmentor = published("sem_fpn")
    with pytest.raises(
        ConfigError, match=r"sem_fpn.pth is a segmentor, which finds no objects: run it by `localvit test`"
    ):
        segmentor.predict(synthetic_image((96, 128), seed=9))
    with pytest.raises(ConfigError, match="--int8 is for R-CNNs and RetinaNet"):
        quantize(segmentor, tmp_path / "found.xml", [])
    segmentor.model.test_cfg = {"mode": "slide"}
    with pytest.raises(ConfigError, match=r"A model with test_cfg.mode='slide' cannot be exported"):
        exportable(segmentor.model)


def test_a_test_builds_the_runtime(tmp_path):
    """As `localvit test` does it for MMSegmentation, whose configs have a preprocessor outside of their models, too."""
    from mmseg.registry import MODELS

    file, info = tmp_path / "x.pt", Info((), "", None, 1, 0.0)
    torch.jit.trace(nn.Identity(), torch.zeros(1)).save(str(file), _extra_files={NOTE: info.to_text()})
    cfg = load_config("configs/sem_fpn_shuffle_nano_shapes.py")
    assert cfg.data_preprocessor
    run_exported(cfg, file, trusted=True)
    assert "data_preprocessor" not in cfg  # the runner would hand it to the model
    assert isinstance(MODELS.build(cfg.model), ExportedDetector)


@pytest.mark.parametrize("size", [(7, 13), (6, 12), (1, 4), (3, 2)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_pooling(size, cells):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(AveragePooling(cells)(x), nn.AdaptiveAvgPool2d(cells)(x))


@pytest.mark.parametrize("align_corners", [False, True])
def test_doubling(align_corners):
    from mmseg.models.utils import Upsample

    x = torch.randn(2, 3, 5, 8)
    expected = Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)(x)
    np.testing.assert_array_equal(Doubling("bilinear", align_corners)(x), expected)
