"""The counter of MACs, on single layers whose value is worked out by hand, and the files made from it."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import nn

from benchmarks import complexity, model_zoo
from benchmarks.complexity import backbone_complexity, count_macs, detector_complexity
from localvit.commands.listings import described_configs
from localvit_det.backbones.dwnet import DynamicDWConv, InhomogeneousDWConv
from localvit_det.backbones.gg_transformer import GlanceGazeAttention
from localvit_det.config import load_config
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


def model_of(config: str) -> dict:
    return load_config(REPOSITORY / f"configs/{config}.py", data=False).model


def test_faster_rcnn_is_mask_rcnn_without_its_mask_head():
    backbone, whole = detector_complexity(model_of("mask_rcnn_shuffle_t_coco"))
    same, boxes = detector_complexity(model_of("faster_rcnn_shuffle_t_coco"))
    assert backbone == same
    # On 100 RoIs of 14×14: four 3×3 convolutions, one that doubles the size, 80 classes; all with biases.
    convs, double, classes, biases = 4 * 9 * 256**2, 4 * 256**2, 80 * 256, 5 * 256 + 80
    assert whole.parameters - boxes.parameters == convs + double + classes + biases
    assert whole.multiply_adds - boxes.multiply_adds == 100 * 14**2 * (convs + double + 4 * classes)


@pytest.mark.slow
def test_panoptic_fpn_is_mask_rcnn_and_a_branch_for_stuff():
    _, whole = detector_complexity(model_of("panoptic_fpn_shuffle_t_coco"))
    _, things = detector_complexity(model_of("mask_rcnn_shuffle_t_coco"))
    # Levels of strides 4, 8, 16 and 32 take a 3×3 convolution; 16 one more at 8, and 32 two more, at 16 and 8.
    first, more, classes = 9 * 256 * 128, 9 * 128**2, 128 * (53 + 1)
    at_stride_4 = first * (1 + 1 / 4 + 1 / 16 + 1 / 64) + more * (1 / 4 + 1 / 16 + 1 / 4) + classes
    assert whole.multiply_adds - things.multiply_adds == 200 * 320 * at_stride_4


@pytest.mark.slow
def test_rtmdet_counts_the_masks_of_100_objects(monkeypatch):
    cfg = model_of("rtmdet_ins_shuffle_t_coco")
    counts = []
    for objects in (100, 50):
        monkeypatch.setattr(complexity, "MASK_PROPOSALS", objects)
        counts.append(detector_complexity(dict(cfg), (640, 640))[1].multiply_adds)
    # Three layers of each object's own, on 8 features and two coordinates at stride 8.
    assert counts[0] - counts[1] == 50 * (10 * 8 + 8 * 8 + 8) * 80 * 80


def few_queries(config: str) -> dict:
    """DINO or Mask2Former with a nano backbone, and few layers and queries."""
    cfg = model_of(config)
    part = cfg if config.startswith("dino") else cfg.panoptic_head
    outs = (1, 2, 3) if part is cfg else (0, 1, 2, 3)
    cfg.backbone = dict(model_of("mask_rcnn_dwnet_nano_shapes").backbone, out_indices=outs)
    widths = [32 * 2**stage for stage in outs]
    if part is cfg:
        cfg.neck.in_channels, cfg.encoder.num_layers, cfg.decoder.num_layers = widths, 1, 2
    else:
        part.in_channels, part.pixel_decoder.encoder.num_layers, part.transformer_decoder.num_layers = widths, 1, 2
    part.num_queries = 20
    return cfg


@pytest.mark.parametrize("config", ["dino_dwnet_t_coco", "mask2former_dwnet_t_coco"])
def test_counts_of_shapes_are_those_of_numbers(config):
    size, model = (64, 96), MODELS.build(few_queries(config)).eval()
    sample = DetDataSample(metainfo={"img_shape": size, "batch_input_shape": size})
    run = count_macs(lambda: model(torch.zeros(1, 3, *size), [sample], mode="tensor"))
    found = detector_complexity(few_queries(config), size)[1]
    assert found == complexity.Complexity(sum(p.numel() for p in model.parameters()), run)


UPERNET = "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512"


# Published: MMDetection's README of RTMDet; the papers of DINO (table 1) and Swin (UPerNet).
@pytest.mark.parametrize(
    ("package", "config", "size", "parameters", "macs"),
    [
        ("mmdet", "rtmdet/rtmdet_l_8xb32-300e_coco", (640, 640), 52.3, 80.23),
        pytest.param("mmdet", "dino/dino-4scale_r50_8xb2-12e_coco", (800, 1280), 47, 279, marks=pytest.mark.slow),
        pytest.param("mmseg", f"swin/{UPERNET}", (512, 2048), 60, 945, marks=pytest.mark.slow),
    ],
)
def test_published_costs_of_baselines(package, config, size, parameters, macs):
    pytest.importorskip(package)
    folder = Path(importlib.util.find_spec(package).origin).parent / ".mim/configs"
    _, found = detector_complexity(load_config(folder / f"{config}.py", data=False).model, size)
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.8)
    assert found.multiply_adds / 1e9 == pytest.approx(macs, rel=0.01)


CONFIGS = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}


def test_the_listing_has_sizes_and_costs_of_every_config():
    assert not [one["config"] for one in described_configs() if not (one["parameters"] and one["multiply-adds"])]


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


def test_sizes_of_any_name_stand_in_the_order_of_the_class(monkeypatch):
    cost = complexity.Complexity(10**6, 10**9)
    sizes = ("s36", "s12", "m48")
    monkeypatch.setattr(MODELS.get("GGTransformer"), "arch_settings", {size: {} for size in sizes})

    def entry(type: str, **backbone: object) -> model_zoo.Entry:
        cfg = Config({"model": {"backbone": {"type": type, **backbone}}})
        return model_zoo.Entry(f"mask_rcnn_{len(backbone)}_coco", cfg, cost, cost, cost)

    entries = [entry("GGTransformer", arch=size) for size in ("m48", "s12", "s36")]
    entries += [entry("GGTransformer", arch={"depths": [1]}), entry("SwinTransformer"), entry("DWNet", arch="base")]
    expected = [
        "DWNet base",
        "GGTransformer nano",
        *(f"GGTransformer {size}" for size in sizes),
        "SwinTransformer tiny",
    ]
    rows = [line.split(" | ") for line in model_zoo.backbone_table(entries).splitlines()[2:]]
    assert [f"{row[0].removeprefix('| ')} {row[1]}" for row in rows] == expected
    rows = [line.split(" | ") for line in model_zoo.overview(entries).splitlines()[2:]]
    assert [row[1] for row in rows] == [name.split()[1] for name in expected]


@pytest.mark.slow
def test_generated_files_are_current(monkeypatch):
    pytest.importorskip("mmseg", reason="the extra seg is not installed")
    monkeypatch.setattr(logging.getLogger("mmengine"), "setLevel", lambda level: None)  # tests after this one read logs
    model_zoo.main(["--check"])
