"""docs/backbones.md: its code runs without MMDetection and MMCV; with them everything is registered in time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from families import FAMILIES, build
from official_layouts import shuffle

PAGE = (REPOSITORY / "docs/backbones.md").read_text(encoding="utf-8")
PAGE, ELSEWHERE = PAGE.split("\n## timm, the Hugging Face Hub and torchvision\n")
BLOCKS = re.findall(r"```python\n(.*?)```", ELSEWHERE, flags=re.DOTALL)
OTHERS = "('mmdet', 'mmcv', 'mmseg', 'mmpretrain', 'torchvision')"  # none of them comes with MMEngine
BLOCKED = f"import sys\nsys.modules.update(dict.fromkeys({OTHERS}))\n"


def run(code: str, folder: Path, given: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    (folder / "code.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "code.py"], cwd=folder, env=environment, input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_code_of_the_page(tmp_path):
    """All blocks in turn, in a process that has neither MMDetection nor MMCV."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    official = shuffle(channels=96, depths=(2, 2, 6, 2), window=7, heads=3)
    # Of the size that weights have: with large random ones a network is chaotic.
    ones = ("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight", "conv1.1.weight", "conv2.1.weight", "_var")
    official = {
        name: 0.02 * t if t.ndim > 1 else torch.full_like(t, float(name.endswith(ones))) for name, t in official.items()
    }
    torch.save({"model": official}, tmp_path / "shuffle_vit_tiny_patch4_window7_224.pth")
    more = f"""
from localvit_det.errors import CheckpointError, RequirementError
from localvit_det.layers import build_norm
try:
    load_backbone(ShuffleTransformer("small"), "shuffle_vit_tiny_patch4_window7_224.pth")
except CheckpointError as error:
    print("refused:", error)
try:
    build_norm({{"type": "GRN"}}, 8)
except RequirementError as error:
    print("refused:", error)
for size in ("tiny", "small"):
    init = dict(type="Pretrained", checkpoint="shuffle_vit_tiny_patch4_window7_224.pth")
    net = ShuffleTransformer(size, out_norm_cfg=None, init_cfg=init)
    try:
        net.init_weights()
        print("by init_cfg:", net.stem.conv1.weight.detach().std().item())
    except CheckpointError as error:
        print("refused by init_cfg:", error)
assert not [name for name, module in sys.modules.items() if module and name.partition(".")[0] in {OTHERS}]
try:
    from localvit_det import Detector
except RequirementError as error:
    print("refused:", error)
"""
    out = run(BLOCKED + "\n".join(blocks) + more, tmp_path)
    assert out.startswith("[96, 192, 384, 768]\n[4, 8, 16, 32]\n")
    assert "Loading shuffle_vit_tiny_patch4_window7_224.pth into ShuffleTransformer tiny:" in out
    assert re.search(r"backbone +(\d+) +\1 +0 +0 +0 ", out)
    assert "refused: shuffle_vit_tiny" in out
    assert float(re.search(r"by init_cfg: (\S+)", out)[1]) == pytest.approx(official["to_token.conv1.0.weight"].std())
    assert "refused by init_cfg: shuffle_vit_tiny" in out
    assert re.search(r"refused: mmcv is not installed: run `pip install", out)
    assert not re.search(r"(?i)warning", out)
    assert "refused: The layer 'GRN' is MMCV's, and mmcv is not installed: run `pip install mmcv-lite==2.1.0`" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "package"),
    zip(BLOCKS, ("timm", "huggingface_hub", "segmentation_models_pytorch", "torchvision", "torchvision"), strict=True),
)
def test_code_in_other_libraries(block, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    exec(block, {})


ORDERS = {
    "the networks first": "from localvit_det.backbones import ShuffleTransformer",
    "mmdet first": """
import importlib.util
import mmdet
if importlib.util.find_spec("mmcv._ext"):  # else its models cannot be imported
    from mmdet.apis import DetInferencer
import localvit_det
""",
    "a config": """
import sys
from mmengine.config import Config
open('own.py', 'w').write('custom_imports = dict(imports=["localvit_det"])')
Config.fromfile('own.py')
assert not {'timm', 'huggingface_hub'} & set(sys.modules)  # unasked
open('own.py', 'w').write('_base_ = "localvit_det::mask_rcnn_shuffle_nano_shapes.py"')
assert Config.fromfile('own.py').model.type == 'MaskRCNN'
""",
}
REGISTERED = """
import mmengine.registry as root
import mmdet.registry as own
from mmdet.apis import DetInferencer
from localvit_det.backbones import ShuffleTransformer
from localvit_det.engine import CurvesHook
for registries in (root, own):
    assert registries.MODELS.module_dict["ShuffleTransformer"] is ShuffleTransformer
    assert registries.RUNNERS.module_dict["ReliableRunner"]
assert own.HOOKS.module_dict["CurvesHook"] is CurvesHook and "CurvesHook" not in root.HOOKS.module_dict
with own.MODELS.switch_scope_and_registry("mmseg") as models:
    assert models.get("mmdet.ShuffleTransformer") is models.get("ShuffleTransformer") is ShuffleTransformer
print("registered")
"""


@pytest.mark.slow
def test_everything_is_registered_in_every_order(tmp_path):
    """Each in a process of its own, with nothing but PyTorch's libraries imported: they take half of the time."""
    forks = f"""
import os, sys, torch, torchvision
for order, code in {ORDERS!r}.items():
    if not os.fork():
        exec(code + {REGISTERED!r}, {{}})
        sys.exit()
    assert os.wait()[1] == 0, order
"""
    assert run(forks, tmp_path).splitlines().count("registered") == len(ORDERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_told_as_they_are(family):
    for indices in ((0, 1, 2, 3), (1, 3)):
        net = build(family, out_indices=indices).eval()
        maps, info = net(torch.zeros(1, 3, 64, 96)), net.feature_info
        assert len(info) == len(maps) == len(indices)
        assert [m.shape[1] for m in maps] == info.channels() == list(net.out_channels)
        assert [64 // m.shape[2] for m in maps] == info.reduction() == list(net.out_strides)
        assert info.channels(2) == net.channels[2]
        assert info.reduction([0, 2]) == [4, 16]
        assert set(info.module_name()) <= {name for name, _ in net.named_modules()}
