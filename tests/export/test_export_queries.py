"""DINO, RTMDet-Ins and Mask2Former, exported, find the same objects as the detectors."""

import numpy as np
import pytest
import torch
from conftest import few
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS
from small_detectors import build_detector, model_of
from torch import nn

from localvit_det import Detector
from localvit_det.config import load_config
from localvit_det.config.pipelines import image_pipeline, prepare
from localvit_det.errors import ConfigError, ExportError
from localvit_det.export.comparison import compare_on
from localvit_det.export.detector import export_detector, exportable, synthetic_image
from localvit_det.export.formats import FORMATS, ExportSpec, export_to, unlisted_operators
from localvit_det.export.queries import DeformableAttention
from localvit_det.export.runtime import ExportedDetector

NANO = "mask_rcnn_shuffle_nano_shapes"
OBJECTS = 20


def small(config: str) -> dict:
    """The model of a config with a nano backbone."""
    cfg = load_config(f"configs/{config}.py").model
    cfg.backbone = {**model_of(NANO).backbone, "out_indices": cfg.backbone.get("out_indices", (0, 1, 2, 3))}
    cfg.backbone.arch.depths = (1, 1, 1, 1)  # export/test_export_backbone.py has both kinds of blocks
    cfg.data_preprocessor.pad_size_divisor = 32
    return cfg


def dino() -> dict:
    cfg = small("dino_shuffle_t_coco")
    cfg.neck.in_channels = [64, 128, 256]
    cfg.num_queries = cfg.test_cfg.max_per_img = OBJECTS
    cfg.encoder.num_layers, cfg.decoder.num_layers = 1, 2
    for coder in (cfg.encoder, cfg.decoder):
        coder.layer_cfg.ffn_cfg.feedforward_channels = 64
    cfg.bbox_head.num_classes = 5
    return cfg


def rtmdet_ins() -> dict:
    cfg = small("rtmdet_ins_shuffle_t_coco")
    cfg.neck.update(in_channels=[64, 128, 256], out_channels=32, num_csp_blocks=1)
    cfg.bbox_head.update(in_channels=32, feat_channels=32, num_classes=5, stacked_convs=1)
    cfg.test_cfg.max_per_img = OBJECTS
    return cfg


def rtmdet() -> dict:
    """Without masks: no config here has it, MMDetection's do."""
    cfg = rtmdet_ins()
    given = {**cfg.bbox_head, "type": "RTMDetSepBNHead", "with_objectness": False}
    del given["loss_mask"]
    return {**cfg, "bbox_head": given}


def mask2former() -> dict:
    cfg = small("mask2former_shuffle_t_coco")
    cfg.data_preprocessor.batch_augments = None
    head = cfg.panoptic_head
    head.in_channels = [32, 64, 128, 256]
    head.num_queries = cfg.test_cfg.max_per_image = OBJECTS
    head.num_things_classes = cfg.panoptic_fusion_head.num_things_classes = 5
    head.loss_cls.class_weight = [1.0] * 5 + [0.1]
    head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers = 1, 3
    return cfg


# Of each its classifiers, and how much surer they have to be for scores that are not all equal.
KINDS = {
    "dino": (dino, ("cls_branches.1.weight", "cls_branches.2.weight"), 5.0),
    "rtmdet_ins": (rtmdet_ins, tuple(f"rtm_cls.{level}.weight" for level in range(3)), 2.0),
    "rtmdet": (rtmdet, tuple(f"rtm_cls.{level}.weight" for level in range(3)), 2.0),
    "mask2former": (mask2former, ("cls_embed.weight",), 10.0),
}


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """Loads detectors with random weights, whose files are made once."""
    made = {}

    def load(name: str) -> Detector:
        if name not in made:
            make, surer, factor = KINDS[name]
            model = build_detector(make(), surer, factor)
            for module in model.modules():
                if isinstance(module, MultiScaleDeformableAttention):  # which begins with the same places for all
                    nn.init.normal_(module.sampling_offsets.weight, std=0.3)
                    nn.init.normal_(module.attention_weights.weight, std=0.3)
            cfg = load_config(NANO)
            cfg.model = make()
            meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": [f"kind {i}" for i in range(5)]}}
            made[name] = tmp_path_factory.mktemp(name) / f"{name}.pth"
            torch.save({"state_dict": model.state_dict(), "meta": meta}, made[name])
        return Detector(made[name], device="cpu", fuse=False)

    return load


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "rtmdet"])
def test_same_objects_at_any_size(name, detectors, tmp_path):
    """The comparison that every export makes, and one of ours at a size that no exporter has seen."""
    for package in FORMATS["onnx"].needs:
        pytest.importorskip(package)
    detector, path = detectors(name), tmp_path / "found.onnx"
    found = export_detector(detector, path)
    assert [one.objects for one in found] == [OBJECTS] * 3
    assert sum(one.mismatches for one in found) <= 1
    assert max(one.mask for one in found) < 1e-3
    assert unlisted_operators(path)[0] == []
    image = synthetic_image((300, 210), seed=9)
    ours, theirs = detector(image, score=0.1), Detector(path)(image, score=0.1)
    assert len(ours) == len(theirs) > 0
    assert len(set(ours.scores.round(4))) > len(ours) / 2
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=4e-3)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)
    np.testing.assert_array_equal(theirs.labels, ours.labels)
    if ours.masks is not None:
        assert theirs.masks.shape == ours.masks.shape
        assert (theirs.masks != ours.masks).sum() < 1e-3 * ours.masks.sum()
    assert len(Detector(path)(image, score=1.0)) == 0


@pytest.fixture
def form(detectors):
    """Makes traceable forms in a detector's place, without an exporter."""

    def make(name: str, size: tuple[int, int]):
        from localvit_det.export.detector import _info

        detector = detectors(name)
        module = exportable(detector.model)
        return detector, module, _info(detector, module, size)

    return make


@pytest.mark.parametrize("name", few(KINDS, "rtmdet_ins"))
def test_padding(name, form):
    """Images are padded to a fixed size by half of theirs, and the detector gets to know how large they are."""
    size = (160, 192)
    detector, module, info = form(name, size)
    images = [prepare(image_pipeline(detector.config, size), synthetic_image((160, 90), seed)) for seed in (1, 2)]
    with torch.no_grad():
        found = compare_on(detector.model, ExportedDetector(module, info), images)
        assert sum(one.objects for one in found) == 2 * OBJECTS
        wrong = ExportedDetector(lambda image, size, score: module(image, size.flip(0), score), info)
        with pytest.raises(ExportError, match="finds other objects"):
            compare_on(detector.model, wrong, images)


def test_padding_of_the_pipeline(form):
    """RTMDet's own pipeline pads to the size that it resizes to, which becomes that of the exported model."""
    size = (96, 160)
    cfg = load_config("configs/rtmdet_ins_shuffle_t_coco.py")
    image = prepare(image_pipeline(cfg, size), synthetic_image((200, 100), 1))["inputs"]
    assert image.shape == (3, *size)
    assert (image[:, :, 48:] == 114).all()
    assert prepare(image_pipeline(cfg), synthetic_image((200, 100), 1))["inputs"].shape == (3, 640, 640)
    with pytest.raises(ExportError, match="is no multiple of 32: choose 96x160, say"):
        form("rtmdet_ins", (96, 150))


@pytest.mark.parametrize("name", few(KINDS, "rtmdet_ins"))
def test_nothing_found(name, form):
    detector, module, info = form(name, (96, 96))
    one = prepare(image_pipeline(detector.config, (96, 96)), synthetic_image((60, 90), 1))
    with torch.no_grad():
        found = ExportedDetector(module, info).find(one["inputs"], one["data_samples"], 1.0)
    assert len(found) == 0
    assert found.bboxes.shape == (0, 4)
    if name in ("rtmdet_ins", "mask2former"):
        assert found.masks.shape == (0, 60, 90)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("dino", lambda model: setattr(model.bbox_head.loss_cls, "use_sigmoid", False), "softmax in its head"),
        ("rtmdet_ins", lambda model: setattr(model.bbox_head.prior_generator, "offset", 0.5), "the points of its"),
        ("rtmdet_ins", lambda model: model.bbox_head.test_cfg.nms.update(type="soft_nms"), "nms="),
        ("mask2former", lambda model: model.panoptic_fusion_head.test_cfg.update(panoptic_on=True), "regions without"),
    ],
)
def test_unknown_parts_are_refused(name, change, sentence):
    model = MODELS.build(KINDS[name][0]())
    change(model)
    with pytest.raises(ConfigError, match=f"A model with {sentence}.* cannot be exported"):
        exportable(model)


class TestDeformableAttention:
    SHAPES = ((6, 5), (3, 4))

    def inputs(self, corners: int, shapes=SHAPES):
        torch.manual_seed(0)
        count = sum(height * width for height, width in shapes)
        return (
            torch.randn(1, 7, 16),
            torch.randn(1, count, 16),
            torch.rand(1, 7, 2, corners),
            torch.rand(1, count) > 0.7,
        )

    def layer(self) -> MultiScaleDeformableAttention:
        torch.manual_seed(1)
        layer = MultiScaleDeformableAttention(16, num_heads=2, num_levels=2, num_points=3, batch_first=True).eval()
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
        return layer

    @pytest.mark.parametrize("corners", [2, 4])
    def test_as_mmcv(self, corners):
        layer, (query, value, places, padding) = self.layer(), self.inputs(corners)
        expected = layer(
            query,
            value=value,
            query_pos=query.flip(1),
            key_padding_mask=padding,
            reference_points=places,
            spatial_shapes=torch.tensor(self.SHAPES),
        )
        found = DeformableAttention(layer)(
            query,
            value=value,
            query_pos=query.flip(1),
            key_padding_mask=padding,
            reference_points=places,
            spatial_shapes=self.SHAPES,
        )
        torch.testing.assert_close(found, expected)

    @pytest.mark.slow
    def test_openvino_at_another_size(self, tmp_path):
        pytest.importorskip("openvino")

        class OnMaps(nn.Module):
            def __init__(self, layer: nn.Module) -> None:
                super().__init__()
                self.layer = DeformableAttention(layer)

            def forward(self, query, places, first, second):
                maps = (first, second)
                return self.layer(
                    query,
                    value=torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1),
                    reference_points=places,
                    spatial_shapes=[(one.shape[2], one.shape[3]) for one in maps],
                )

        def inputs(*shapes):
            query, _, places, _ = self.inputs(4)
            maps = (torch.randn(1, 16, *shape) for shape in shapes)
            return dict(zip(("query", "places", "first", "second"), (query, places, *maps), strict=True))

        module = OnMaps(self.layer())
        axes = {name: {2: f"{name}_height", 3: f"{name}_width"} for name in ("first", "second")}
        spec = ExportSpec(module, inputs(*self.SHAPES), ["found"], axes)
        other = inputs((4, 9), (2, 5)).values()
        with export_to(spec, tmp_path / "layer.xml", FORMATS["openvino"]) as run, torch.no_grad():
            torch.testing.assert_close(run(*other)[0], module(*other), rtol=1e-4, atol=1e-5)
