"""The counter of multiply-adds, on single layers whose value is worked out by hand, and the files made from it."""

import logging

import pytest
import torch
import yaml
from conftest import REPOSITORY
from torch import nn

from benchmarks import model_zoo
from benchmarks.complexity import backbone_complexity, count_macs
from localvit_det.backbones.dwnet import DynamicDWConv, InhomogeneousDWConv
from localvit_det.backbones.gg_transformer import GlanceGazeAttention
from localvit_det.layers import ConvMlp, WindowAttention

pytestmark = pytest.mark.measuring

BN = {"type": "BN"}
B, C, H, W = 2, 8, 14, 21
POSITIONS = B * H * W


def counted(layer: nn.Module, device: str) -> int:
    layer = layer.eval().to(device)
    return count_macs(lambda: layer(torch.zeros(B, C, H, W, device=device)))


LAYERS = {
    "depth-wise": (lambda: nn.Conv2d(C, C, 7, padding=3, groups=C), POSITIONS * C * 49),
    "strided": (lambda: nn.Conv2d(C, 3, 2, stride=2), B * (H // 2) * (W // 2) * C * 3 * 4),
    "transposed": (lambda: nn.ConvTranspose2d(C, 3, 2, stride=2), POSITIONS * C * 3 * 4),
    "linear on the last axis": (lambda: nn.Linear(W, 5), B * C * H * W * 5),
    "mlp": (lambda: ConvMlp(C, 4 * C, {"type": "GELU"}), POSITIONS * 2 * C * 4 * C),
    # Projections 3C² + C², and a query times 49 keys and as many values, C wide.
    "local windows": (lambda: WindowAttention(C, 2, 7, split="local"), POSITIONS * (4 * C * C + 2 * 49 * C)),
    "dilated windows": (lambda: WindowAttention(C, 2, 7, split="dilated"), POSITIONS * (4 * C * C + 2 * 49 * C)),
    "glance and gaze": (lambda: GlanceGazeAttention(C, 2, 7, 5), POSITIONS * (4 * C * C + 2 * 49 * C + 25 * C)),
    # Kernels from one mean per image: C -> C/4 -> 49·C.
    "dynamic": (lambda: DynamicDWConv(C, 7, BN), POSITIONS * C * 49 + B * (C * C // 4 + C // 4 * 49 * C)),
    # Kernels at every position, one for 2 channels: C -> C/4 -> 49·C/2.
    "inhomogeneous": (
        lambda: InhomogeneousDWConv(C, 7, 2, BN),
        POSITIONS * (C * 49 + C * C // 4 + C // 4 * 49 * C // 2),
    ),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, device):
    make, expected = LAYERS[name]
    assert counted(make(), device) == expected


def test_padded_windows_are_counted_as_they_run():
    """10×10 tokens run as 14×14 ones; the projection comes before the crop."""
    layer = WindowAttention(C, 2, 7, split="local").eval().to("meta")
    count = count_macs(lambda: layer(torch.zeros(1, C, 10, 10, device="meta")))
    assert count == 14 * 14 * (4 * C * C + 2 * 49 * C)


def test_complexity_grows_with_the_image_and_leaves_no_gradients():
    cfg = dict(type="DWNet", arch=dict(embed_dims=8, depths=(1, 1, 1, 1), drop_path_rate=0.0))
    small, large = (backbone_complexity(cfg, size) for size in ((64, 64), (128, 64)))
    assert small.parameters == large.parameters
    assert large.multiply_adds == 2 * small.multiply_adds
    assert torch.is_grad_enabled()


CONFIGS = {path.stem for path in model_zoo.config_paths(REPOSITORY / "configs")}


def test_every_config_is_in_the_table_and_in_a_metafile():
    page = (REPOSITORY / "docs/model_zoo.md").read_text()
    assert {name for name in CONFIGS if f"| `{name}` |" in page} == CONFIGS
    models = []
    metafiles = list((REPOSITORY / "configs/metafiles").glob("*.yml"))
    for file in metafiles:
        content = yaml.safe_load(file.read_text())
        assert [c["Name"] for c in content["Collections"]] == sorted({m["In Collection"] for m in content["Models"]})
        assert all(not m.get("Results") for m in content["Models"]), "nothing was measured"
        models += content["Models"]
    assert sorted(m["Name"] for m in models) == sorted(CONFIGS)
    index = yaml.safe_load((REPOSITORY / "model-index.yml").read_text())
    assert index["Import"] == sorted(f"configs/metafiles/{path.name}" for path in metafiles)


@pytest.mark.slow
def test_generated_files_are_current(monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmengine"), "setLevel", lambda level: None)  # tests after this one read logs
    model_zoo.main(["--check"])
