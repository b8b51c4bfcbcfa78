"""Exported detectors find the same objects as the detectors, through `Detector` and the commands as well."""

import json
import re
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from families import build_short
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from small_detectors import DETECTORS, build_detector, model_of
from torch import nn

from localvit.commands import files, predict
from localvit_det import Detector
from localvit_det.checkpoint.exported import NOTE, read_info
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, ConfigError, ExportError
from localvit_det.export import formats
from localvit_det.export.comparison import Agreement, check_agreement, compare_objects
from localvit_det.export.detector import export_detector, exportable, synthetic_image
from localvit_det.export.formats import FORMATS, ExportSpec, export_to, unlisted_operators
from localvit_det.export.runtime import ExportedDetector
from localvit_det.predict.result import Frame

NANO = "mask_rcnn_shuffle_nano_shapes"


def with_resnet_18() -> ConfigDict:
    """With a third of the layers of a ResNet-50, with which torch.export takes half as long again."""
    cfg = DETECTORS["mask_rcnn_resnet"]()
    cfg.backbone.update(depth=18, base_channels=32)
    return cfg


KINDS = {
    **{name: DETECTORS[name] for name in ("mask_rcnn", "cascade", "retinanet")},
    "mask_rcnn_resnet": with_resnet_18,
    "faster_rcnn": lambda: model_of("faster_rcnn_shuffle_t_coco"),
    **{net: (lambda net=net: model_of(f"mask_rcnn_{net}_nano_shapes")) for net in ("dwnet", "swin", "pvt")},
}
SUFFIXES = {name: kind.suffix for name, kind in FORMATS.items()}


class Exported(NamedTuple):
    path: Path
    found: list[Agreement]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Makes files of detectors that find something, each once."""
    made: dict[str, Path] = {}

    def publish(name: str) -> Path:
        if name not in made:
            cfg = load_config(NANO)
            cfg.model = KINDS[name]()
            # Each stage, with a block: exporters think about each for long, and test_export_backbone.py has both kinds.
            if "arch" in cfg.model.backbone:
                cfg.model.backbone.arch.depths = (1, 1, 1, 1)
            # Larger weights make rounding larger, too.
            model = build_detector(cfg.model, surer=("fc_cls.weight",), factor=4.0)
            count = getattr(model, "roi_head", model).bbox_head
            count = (count[0] if isinstance(count, nn.ModuleList) else count).num_classes
            meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": [f"kind {i}" for i in range(count)]}}
            made[name] = tmp_path_factory.mktemp(name) / f"{name}.pth"
            torch.save({"state_dict": model.state_dict(), "meta": meta}, made[name])
        return made[name]

    return publish


@pytest.fixture(scope="module")
def exported(published, tmp_path_factory):
    """Exports detectors for any size, each once."""
    made: dict[tuple[str, str], Exported] = {}

    def to(format: str, name: str = "mask_rcnn") -> Exported:
        if (format, name) not in made:
            need(format)
            path = tmp_path_factory.mktemp(format) / f"found{SUFFIXES[format]}"
            found = export_detector(Detector(published(name), device="cpu", fuse=False), path)
            made[format, name] = Exported(path, found)
        return made[format, name]

    return to


def need(format: str) -> None:
    for package in FORMATS[format].needs:
        pytest.importorskip(package)


def assert_alike(found, expected) -> None:
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=4e-3)  # pixels of 320
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    if expected.masks is None:
        assert found.masks is None
    else:
        assert found.masks.shape == expected.masks.shape
        assert (found.masks != expected.masks).mean() < 1e-3


class TestExport:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "format"),
        [
            *((name, "onnx") for name in KINDS if name not in ("dwnet", "pvt")),
            ("dwnet", "openvino"),  # from ONNX
            ("mask_rcnn", "torchscript"),
            ("mask_rcnn_resnet", "torch_export"),
        ],
    )
    def test_same_objects_at_any_size(self, name, format, published, exported):
        """The comparison that every export makes, and one of ours at a size that no exporter has seen."""
        if format == "torch_export" and not formats.ANY_SIZE:
            pytest.skip("needs PyTorch 2.8")
        path, found = exported(format, name)
        assert len({one.size for one in found}) == 3
        assert sum(one.objects for one in found) >= 60
        assert sum(one.mismatches for one in found) <= 1
        assert {file.name for file in path.parent.iterdir()} <= {path.name, "found.bin"}
        if format == "onnx":
            assert unlisted_operators(path)[0] == []
        program = format.startswith("torch")
        if program:
            with pytest.raises(CheckpointError, match="--trust-file"):
                Detector(path)
        image = synthetic_image((300, 210), seed=9)
        ours = Detector(published(name), device="cpu", fuse=False)(image, score=0.2)
        theirs = Detector(path, trusted=program)(image, score=0.2)
        assert theirs.classes == ours.classes
        assert_alike(theirs, ours)

    @pytest.mark.slow
    def test_layers_in_half_precision(self, published, exported, tmp_path):
        """The file is half as large and finds nearly the same; the detector keeps its own weights."""
        detector = Detector(published("mask_rcnn"), device="cpu", fuse=False)
        path = tmp_path / "half.onnx"
        found = export_detector(detector, path, half=True)
        assert sum(one.objects for one in found) >= 60
        assert 0 < max(one.score for one in found) < 2e-3
        assert path.stat().st_size < 0.6 * exported("onnx").path.stat().st_size
        assert unlisted_operators(path)[0] == []
        assert {parameter.dtype for parameter in detector.model.parameters()} == {torch.float32}
        assert len(Detector(path)(synthetic_image((300, 210), seed=9), score=0.2))

    @pytest.mark.slow
    def test_fixed_size(self, published, tmp_path):
        """Padding beyond the image changes what is found a little, so the comparison pads in the same way."""
        need("openvino")
        detector = Detector(published("mask_rcnn"), device="cpu", fuse=False)
        path = tmp_path / "found.xml"
        found = export_detector(detector, path, size=(128, 192))
        assert sum(one.objects for one in found) >= 60
        assert read_info(path).size == (128, 192)
        exported = Detector(path)
        for size in ((300, 210), (100, 320)):  # wide and upright ones fit
            result = exported(synthetic_image(size, seed=9), score=0.2)
            assert len(result)
            assert (result.boxes <= np.array([size[1], size[0]] * 2) + 1e-3).all()
        with pytest.raises(ExportError, match="is no multiple of 32: choose 96x192, say"):
            export_detector(detector, tmp_path / "other.onnx", size=(100, 192))

    @pytest.mark.slow
    def test_pvt_of_any_size_is_refused(self, published, tmp_path):
        """Its attention leaves sizes in a trace."""
        need("onnx")
        detector = Detector(published("pvt"), device="cpu", fuse=False)
        with pytest.raises(ExportError, match=r"does not run on an image of .* or a fixed size; no file was written"):
            export_detector(detector, tmp_path / "found.onnx")
        assert not list(tmp_path.iterdir())
        found = export_detector(detector, tmp_path / "found.onnx", size=(128, 192))
        assert sum(one.objects for one in found) >= 60

    @pytest.mark.slow
    def test_page_runs_it_without_the_package(self, exported, tmp_path, monkeypatch):
        page = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
        code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block)
        shutil.copy(exported("onnx").path, tmp_path / "detector.onnx")
        image = synthetic_image((150, 110), seed=9)
        cv2.imwrite(str(tmp_path / "image.jpg"), image)
        monkeypatch.chdir(tmp_path)
        exec(code.replace("0.3", "0.2"), found := {})
        ours = Detector("detector.onnx").model.run
        padded = F.pad(torch.from_numpy(cv2.imread("image.jpg")).permute(2, 0, 1), (0, 18, 0, 10))[None]
        expected = ours(padded, torch.tensor([150, 110]), torch.tensor(0.2))
        assert len(found["boxes"])
        for name, values in zip(("boxes", "scores", "labels", "masks"), expected, strict=True):
            np.testing.assert_array_equal(found[name], values.numpy())

    @pytest.mark.slow
    def test_nothing_found(self, exported):
        """An exported model that finds nothing ends like one that does."""
        result = Detector(exported("onnx").path)(np.zeros((64, 96, 3), np.uint8), score=1.0)
        assert len(result) == 0
        assert result.boxes.shape == (0, 4)
        assert result.masks.shape == (0, 64, 96)

    def test_padding_does_not_count(self, published):
        """What lies beyond the image is no part of it, whatever its value."""
        detector = Detector(published("mask_rcnn"), device="cpu", fuse=False)
        module = exportable(detector.model)
        image = torch.from_numpy(synthetic_image((96, 128), seed=1)).permute(2, 0, 1)[None]
        size, score = torch.tensor([80, 100]), torch.tensor(0.2)
        found = []
        for value in (0, 200):
            padded = image.clone()
            padded[:, :, 80:], padded[:, :, :, 100:] = value, value
            with torch.no_grad():
                found.append(module(padded, size, score))
        assert len(found[0][0])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert (found[0][0] <= torch.tensor([100.0, 80, 100, 80])).all()

    def test_unknown_detectors_are_refused(self):
        torch.manual_seed(0)
        cfg = model_of(NANO)
        for change, sentence in (
            ({"type": "PointRend"}, "the type PointRend"),
            ({"test_cfg.rcnn.nms.type": "soft_nms"}, "nms="),
            ({"rpn_head.anchor_generator.type": "LegacyAnchorGenerator"}, "a LegacyAnchorGenerator"),
        ):
            model = MODELS.build(_changed(cfg, change))
            with pytest.raises(ConfigError, match=f"A model with {sentence}.* cannot be exported"):
                exportable(model)

    @pytest.mark.slow
    def test_wrong_models_are_refused(self, published, tmp_path, monkeypatch):
        """An exported model that takes the colors in another order than the detector is not kept."""
        detector = Detector(published("mask_rcnn_resnet"), device="cpu", fuse=False)

        def other(model: nn.Module) -> nn.Module:
            module = exportable(model)
            module.swap = not module.swap
            return module

        monkeypatch.setattr("localvit_det.export.detector.exportable", other)
        with pytest.raises(ExportError, match="finds other objects"):
            export_detector(detector, tmp_path / "found.pt")
        assert not list(tmp_path.iterdir())
        with pytest.raises(ExportError, match="finds nothing in the images"):
            check_agreement([])

    def test_objects_are_compared_one_by_one(self):
        from mmengine.structures import InstanceData

        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]])
        ours = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 1]))
        moved = InstanceData(bboxes=boxes + 1e-3, scores=ours.scores, labels=ours.labels)
        assert compare_objects(ours, moved[[1, 0]], (100, 100)).mismatches == 0
        assert compare_objects(ours, moved[[1, 0]], (100, 100)).box == pytest.approx(1e-3, rel=0.01)
        for wrong in (
            InstanceData(bboxes=boxes + 1, scores=ours.scores, labels=ours.labels),
            InstanceData(bboxes=boxes, scores=ours.scores, labels=1 - ours.labels),
            InstanceData(bboxes=boxes, scores=ours.scores - 0.01, labels=ours.labels),
        ):
            assert compare_objects(ours, wrong, (100, 100)).mismatches == 2
        assert compare_objects(ours[:1], ours, (100, 100)).mismatches == 1


class TestIntegers:
    @pytest.mark.slow
    def test_quantize(self, published, tmp_path, monkeypatch):
        """Layers get integers, what computes boxes does not."""
        pytest.importorskip("nncf")
        import openvino

        from localvit_det.export import quantize

        images = [Frame(synthetic_image((240, 320), seed), "", "") for seed in range(4)]
        detector = Detector(published("dwnet"), device="cpu", fuse=False)
        monkeypatch.setattr(quantize, "_LEAST", 0.0)  # random weights do not bear much
        found = quantize.quantize(detector, tmp_path / "found.xml", images, size=(128, 160))
        assert found.images == 4
        assert 0 < found.again <= found.objects
        assert sorted(file.name for file in tmp_path.iterdir()) == ["found.bin", "found.xml"]
        assert read_info(tmp_path / "found.xml").int8
        model = openvino.Core().read_model(tmp_path / "found.xml")
        rounded = [
            node.input_value(0).get_node().get_friendly_name()
            for node in model.get_ops()
            if node.get_type_name() == "FakeQuantize"
        ]
        assert len(rounded) > 20
        assert not any("NonMaxSuppression" in name or "TopK" in name for name in rounded)
        assert len(Detector(tmp_path / "found.xml")(images[0].image, score=0.05))

    @pytest.mark.slow
    @pytest.mark.parametrize(("family", "inhomogeneous"), [("DWNet", False), ("IDynamicDWNet", True)])
    def test_what_bears_no_integers_stays(self, family, inhomogeneous, tmp_path):
        """Recognized by the names of operators, which exporters make: of a real model, so that none is missed."""
        pytest.importorskip("nncf")
        import openvino

        from localvit_det.export.quantize import _outside

        backbone = build_short(family).eval().fuse()
        detector = nn.Sequential(OrderedDict(backbone=backbone))
        spec = ExportSpec(detector, {"image": torch.randn(1, 3, 64, 96)}, ["map0", "map1"])
        with export_to(spec, tmp_path / "found.xml", FORMATS["openvino"]):
            pass
        model = openvino.Core().read_model(tmp_path / "found.xml")
        stay = re.compile(_outside(model))
        names = [
            operator.get_friendly_name() for operator in model.get_ops() if "/Conv" in operator.get_friendly_name()
        ]
        assert any("/downsample/" in one for one in names)
        assert any("/project/" in one for one in names)
        for one in names:
            if "/downsample/" in one:
                assert stay.match(one)
            elif "/fc1/" in one:
                assert not stay.match(one)
            elif "/project/" in one:
                assert bool(stay.match(one)) is inhomogeneous

    def test_what_loses_too_much_is_refused(self):
        from localvit_det.export.quantize import check_found_again

        check_found_again(objects=10, again=5)
        for objects, again, sentence in ((10, 4, "finds 4 of 10 objects again"), (0, 0, "is sure of no object")):
            with pytest.raises(ExportError, match=sentence):
                check_found_again(objects, again)


HALF = "--half writes whole detectors for ONNX: let --out end in .onnx"


class TestCommands:
    @pytest.mark.slow
    def test_export_and_predict(self, published, tmp_path, capsys):
        """Equal detections of a checkpoint and of its exported file, by commands alone."""
        need("onnx")
        (tmp_path / "photos").mkdir()
        for seed in (1, 2):
            cv2.imwrite(str(tmp_path / f"photos/{seed}.png"), synthetic_image((240, 320), seed))
        file = tmp_path / "detector.onnx"
        files.export([str(published("dwnet")), "--out", str(file), "--images", str(tmp_path / "photos")])
        assert "objects" in capsys.readouterr().out
        found = []
        for model in (published("dwnet"), file):
            out = tmp_path / f"{model.stem}.json"
            predict.main([str(model), str(tmp_path / "photos"), "--json", str(out), "--no-images", "--quiet"])
            found.append(json.loads(out.read_text())["annotations"])
        assert len(found[0]) == len(found[1]) > 0
        for ours, theirs in zip(*found, strict=True):
            assert ours["category_id"] == theirs["category_id"]
            np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=0.02)  # two decimals are written
            assert ours["score"] == pytest.approx(theirs["score"], abs=2e-4)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--size", "100"], "--size 100 is no size"),
            (["--int8"], "--int8 needs images"),
            (["--int8", "--calibration", "x"], "let --out end in .xml"),
            (["--calibration", "x"], "has no effect without --int8"),
            (["--int8", "--calibration", "x", "--images", "y"], "leave it out and give --calibration"),
            (["--backbone", "--images", "y"], "leave it out with --backbone"),
            (["--dynamic", "--size", "64x64"], "give one of the two"),
            *((["--half", *more], HALF) for more in (["--out", "a.xml"], ["--int8"], ["--backbone"])),
        ],
    )
    def test_mistakes(self, arguments, sentence, tmp_path, refused):
        assert sentence in refused(files.export, "none.pth", "--out", tmp_path / "x.onnx", *arguments)

    @pytest.mark.parametrize("place", ["../outside.bin", "link.bin", "/ABSOLUTE"])
    def test_data_outside_of_the_folder(self, place, tmp_path):
        """ONNX may keep its numbers in other files, of which only those in its folder are read."""
        need("openvino")
        onnx = pytest.importorskip("onnx")
        place = place.replace("/ABSOLUTE", str(tmp_path / "outside.bin"))
        (tmp_path / "outside.bin").write_bytes(bytes(400))
        (tmp_path / "model").mkdir()
        (tmp_path / "model/link.bin").symlink_to("../outside.bin")
        tensor = onnx.TensorProto(name="w", data_type=1, dims=[100], data_location=1)
        for key, value in (("location", place), ("offset", "0"), ("length", "400")):
            tensor.external_data.add(key=key, value=value)
        found = onnx.helper.make_tensor_value_info("y", 1, [100])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [found], [tensor])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.helper.set_model_props(model, {NOTE: "{}"})
        path = tmp_path / "model/x.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=r"x\.onnx cannot be read"):
            Detector(path)

    def test_foreign_files(self, tmp_path):
        torch.jit.trace(nn.Identity(), torch.zeros(1)).save(tmp_path / "foreign.pt")
        with pytest.raises(CheckpointError, match="is no exported detector of this package"):
            Detector(tmp_path / "foreign.pt", trusted=True)
        for program in ("foreign.pt", "foreign.pt2"):
            with pytest.raises(CheckpointError, match=r"is a program of .*: pass --trust-file"):
                ExportedDetector(tmp_path / program)
        (tmp_path / "broken.onnx").write_bytes(b"no program")
        need("onnx")
        with pytest.raises(CheckpointError, match=r"broken.onnx cannot be read"):
            Detector(tmp_path / "broken.onnx")
        with pytest.raises(CheckpointError, match=r"none.onnx does not exist"):
            Detector(tmp_path / "none.onnx")

    @pytest.mark.slow
    def test_gpu_is_not_for_files(self, exported):
        with pytest.raises(ConfigError, match=r"is run on a CPU here|cannot be used here"):
            Detector(exported("onnx").path, device="cuda")


def _changed(cfg: ConfigDict, change: dict) -> ConfigDict:
    from mmengine.config import Config

    whole = Config({"model": cfg})
    whole.merge_from_dict({f"model.{key}": value for key, value in change.items()})
    return whole.model


def test_types_without_an_exportable_form_are_named_with_the_reason():
    kind = MODELS.get("PanopticFPN")
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    with pytest.raises(
        ConfigError, match=r"A PanopticFPN cannot be exported: .+; export its backbone alone with --backbone"
    ):
        exportable(model)


def test_operators_that_tensorrt_does_not_list(tmp_path):
    """Those of branches and of other domains as well."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    y = helper.make_tensor_value_info("y", kind, None)
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(operator, ["x"], ["y"])], name, [], [y])
        for name, operator in (("then", "Relu"), ("else", "Det"))
    }
    nodes = [
        helper.make_node("If", ["condition"], ["z"], **branches),
        helper.make_node("Mine", ["z"], ["y"], domain="own"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", kind, None),
        helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", inputs, [y])), tmp_path / "graph.onnx")
    assert unlisted_operators(tmp_path / "graph.onnx") == (["Det", "own.Mine"], "TensorRT 10.1")
