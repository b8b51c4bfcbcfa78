"""Exported backbones compute the same maps, at any size; what does not is refused."""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, build, build_short
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.backbones import LocalViT
from localvit_det.errors import ExportError
from localvit_det.export import FORMATS, OPSET, export_backbone, find_format, formats
from localvit_det.export.formats import unlisted_operators

SUFFIXES = {name: kind.suffix for name, kind in FORMATS.items()}


def trained(family: str, stages: int = 4) -> LocalViT:
    """A backbone whose BatchNorms and biases are not the initial ones; its first stage has both kinds of blocks."""
    net = build(family, depths=(2, 1, 1, 1)) if stages == 4 else build_short(family, stages)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def need(format: str) -> None:
    for package in FORMATS[format].needs:
        pytest.importorskip(package)


def distance(maps: list[Tensor], expected: tuple[Tensor, ...]) -> float:
    return max(float((m - e).norm() / e.norm()) for m, e in zip(maps, expected, strict=True))


def runner(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Runs a file in its runtime, without the package's own code."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: [torch.from_numpy(y) for y in session.run(None, {"image": x.numpy()})]
    if path.suffix == ".xml":
        return in_openvino(path)
    return torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()


def in_openvino(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Runs a file, of ONNX or its own, in OpenVINO."""
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: [torch.from_numpy(np.array(y)) for y in model({"image": x.numpy()}).values()]


@pytest.mark.parametrize(
    ("family", "format"),
    [
        pytest.param(family, name, marks=[pytest.mark.slow] * ((family, name) != ("DWNet", "onnx")))
        for family in FAMILIES
        for name in FORMATS
        if name != "openvino" or family == "DWNet"  # made of ONNX, which it reads below
    ],
)
def test_exported_backbone_runs_at_any_size(family, format, tmp_path):
    need(format)
    if format == "torch_export" and not formats.ANY_SIZE:
        pytest.skip("needs PyTorch 2.8")
    # All stages of one; of the others those that have both kinds of blocks, as exporters are slow, torch.export most.
    net = trained(family, stages=4 if family == "DWNet" else 1 if format == "torch_export" else 2)
    path = tmp_path / f"net{SUFFIXES[format]}"
    # torch.export tells one window a row in the last stage from several, and is refused for sizes with one.
    size = (303, 224) if format == "torch_export" else (151, 112)
    found = export_backbone(net, path, size=size)
    assert len({one.size for one in found}) == 4
    assert all(one.error <= 1e-4 for one in found)
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "net.bin"}
    if format == "onnx":
        assert unlisted_operators(path)[0] == []
    image = torch.randn(1, 3, 118, 141)
    with torch.no_grad():
        assert distance(runner(path)(image), net(image)) < 1e-4
        if format == "onnx" and family != "DWNet" and importlib.util.find_spec("openvino"):
            assert distance(in_openvino(path)(image), net(image)) < 1e-4


def test_one_size(tmp_path):
    need("onnx")
    net = trained("ShuffleTransformer", stages=2).train()
    path = tmp_path / "net.onnx"
    found = export_backbone(net, path, size=(75, 92), dynamic=False, fuse=False, batch=2)
    assert [one.size for one in found] == [(75, 92)]
    assert net.training
    assert any(isinstance(module, _BatchNorm) for module in net.modules())
    image = torch.randn(2, 3, 75, 92)
    with torch.no_grad():
        assert distance(runner(path)(image), net.eval()(image)) < 1e-4


def test_torch_export_before_2_8_holds_one_size(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ANY_SIZE", False)
    net = trained("DWNet", stages=2)
    with pytest.raises(ExportError, match=r"any size needs PyTorch 2.8 or later, and this is 2\.\d+.*fixed"):
        export_backbone(net, tmp_path / "net.pt2", size=(64, 96))
    assert not list(tmp_path.iterdir())
    [found] = export_backbone(net, tmp_path / "net.pt2", size=(64, 96), dynamic=False)
    assert found.error <= 1e-4


class Baked(nn.Module):
    """A mixer that works, but leaves a constant in a trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.shape[2])


class Written(torch.autograd.Function):
    """An operator that the exporter of ONNX loses, as it writes in place."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, :, 1:].add_(x[:, :, 1:])
        return out


class Lost(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Written.apply(x)


@pytest.mark.parametrize(("mixer", "dynamic"), [(Baked, True), (Lost, False)])
def test_wrong_model_is_not_kept(mixer, dynamic, tmp_path):
    need("onnx")
    net = trained("DWNet")
    net.stages[1].blocks[0].mixer = mixer()
    (tmp_path / "net.onnx").write_text("an older one")
    with pytest.raises(ExportError, match=r"wrong on an image of \d+.\d+ pixels: its maps differ by .*no file was"):
        export_backbone(net, tmp_path / "net.onnx", size=(75, 92), dynamic=dynamic)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "an older one"


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x).sum() * x


def test_what_cannot_be_written_is_told(tmp_path):
    need("onnx")
    net = trained("DWNet")
    net.stages[1].blocks[0].mixer = Unknown()
    with pytest.raises(ExportError, match=r"ONNX.* cannot hold this network .*svd.*: choose another format"):
        export_backbone(net, tmp_path / "net.onnx", size=(75, 92))
    assert not list(tmp_path.iterdir())


def test_mistakes_are_told(tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"net.trt does not tell the format by its ending: choose one of onnx"):
        find_format(None, "net.trt")
    with pytest.raises(ExportError, match="'tensorrt' is no format"):
        find_format("tensorrt", "net.onnx")
    with pytest.raises(ExportError, match="numbers from 1 on"):
        export_backbone(trained("DWNet"), tmp_path / "net.pt", size=(0, 5))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"OpenVINO needs the package openvino .*pip install 'localvit_det\[export\]"):
        find_format("openvino", "net.xml")


@pytest.mark.parametrize("opset", [16, OPSET, 18])
@pytest.mark.slow
def test_kernels_at_each_position_survive_an_export_by_hand(opset, tmp_path):
    need("onnx")
    net = trained("IDynamicDWNet", stages=2)
    image = torch.randn(1, 3, 75, 92)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (image,),
            tmp_path / "net.onnx",
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["map0", "map1"],
        )
    with torch.no_grad():
        assert distance(runner(tmp_path / "net.onnx")(image), net(image)) < 1e-4
