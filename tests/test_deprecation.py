"""Former names still work for one release, and warn."""

from importlib import import_module

import pytest
import torch
from families import build
from mmdet.registry import MODELS
from predict_cases import picture, published

from localvit_det.config.run import Run, changes
from localvit_det.errors import ConfigError
from localvit_det.predict import Detector


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("localvit_det.inference:fuse_detector", "localvit_det.fused:fuse_detector"),
        ("localvit_det.inference:fused_twin", "localvit_det.fused:fused_copy"),
        ("localvit_det.inference.masks:paste_masks", "localvit_det.fused.roi_heads:paste_masks"),
        ("localvit_det.heads:LeanFCNMaskHead", "localvit_det.heads:MemoryEfficientFCNMaskHead"),
        ("localvit_det.layers:form_of", "localvit_det.layers:register_fused"),
        ("localvit_det.checkpoint.fit:load_backbone", "localvit_det.checkpoint.loading:load_backbone"),
        ("localvit_det.export:Program", "localvit_det.export.formats:ExportSpec"),
        ("localvit_det.export:written", "localvit_det.export.formats:export_to"),
        ("localvit_det.drawing:draw_pair", "localvit_det.visualization:draw_pair"),
        ("localvit_det.evaluation:PairVisualizer", "localvit_det.visualization:PairVisualizer"),
        ("localvit_det.ops:lean", "localvit_det.ops:recomputed"),
        ("localvit_det.predict.coco_file:assemble", "localvit_det.predict.output:assemble"),
    ],
)
def test_former_names_in_code(former, now):
    (old_home, old), (home, name) = (place.split(":") for place in (former, now))
    with pytest.warns(DeprecationWarning, match=rf"{old_home}\.{old} is now called {home}\.{name}"):
        found = getattr(import_module(old_home), old)
    assert found is getattr(import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = import_module(old_home).nothing


def test_former_argument_of_backbones():
    with pytest.warns(DeprecationWarning, match="lean is now called recompute_activations"):
        net = build("ShuffleTransformer", lean=False)
    assert net.recompute_activations is False
    assert build("ShuffleTransformer").recompute_activations is True
    assert {"lean", "recompute_activations"} <= net.accepted_arguments()


def test_former_names_in_configs():
    assert MODELS.get("LeanFCNMaskHead") is MODELS.get("MemoryEfficientFCNMaskHead")
    head = {"type": "LeanFCNMaskHead", "num_convs": 1, "in_channels": 8, "conv_out_channels": 8, "num_classes": 2}
    assert MODELS.build(head)(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)  # features, since it trains


def test_a_published_file_of_the_last_release_loads(tmp_path):
    path = published(tmp_path)
    expected = Detector(path)(picture())
    content = torch.load(path, weights_only=False)
    text = content["meta"]["cfg"]
    was = text.replace("MemoryEfficientFCNMaskHead", "LeanFCNMaskHead").replace(
        "backbone=dict(", "backbone=dict(lean=True, "
    )
    assert was.count("Lean") == was.count("lean=") == 1
    torch.save({**content, "meta": {**content["meta"], "cfg": was}}, path)
    detector = Detector(path)
    assert detector.model.roi_head.mask_head.num_classes == len(content["meta"]["dataset_meta"]["classes"])
    found = detector(picture())
    assert torch.equal(torch.as_tensor(found.scores), torch.as_tensor(expected.scores))


@pytest.mark.parametrize("renamed", [True, False])
def test_a_run_goes_on_under_the_new_names(renamed):
    was = {"model": {"backbone": {"lean": False}, "roi_head": {"mask_head": {"type": "LeanFCNMaskHead"}}}}
    head = {"type": "MemoryEfficientFCNMaskHead" if renamed else "FCNMaskHead"}
    now = {"model": {"backbone": {"recompute_activations": False}, "roi_head": {"mask_head": head}}}
    found = changes(was, now)
    assert bool(found) is not renamed
    if not renamed:
        run = Run("run.py", was, "run.py")
        with pytest.raises(ConfigError, match="architecture"):
            run.check(type("Config", (dict,), {"filename": None})(now), {})
