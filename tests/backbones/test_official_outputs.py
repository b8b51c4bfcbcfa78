"""What the official codes compute, recorded by data/make_official_outputs.py, computed by ours."""

import numpy as np
import official_layouts
import pytest
import torch
from mmdet.registry import MODELS
from official_outputs import FILE, Case, cases, difference, digest, image, weights

from localvit_det.checkpoint.loading import load_state_dict

QUICK = ("MSGTransformer-tiny-224x224-4421", "TwinsPCPVT-small-256x320-detection", "TwinsSVT-small-256x320-detection")


def official_state(case: Case, net: torch.nn.Module) -> dict:
    """Tensors with the official names and shapes, and values of the recorded run."""
    with torch.device("meta"):
        if case.kind == "MSGTransformer":
            state = official_layouts.msg(net.embed_dims, net.depths, heads=net.num_heads[0])
        else:
            detection = case.form == "detection"
            state = official_layouts.twins(
                case.kind, net.channels, net.depths, tuple(map(int, net.mlp_ratios)), detection
            )
    return weights(state)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(c), marks=() if str(c) in QUICK else pytest.mark.slow) for c in cases()]
)
def test_stages_equal_official_code(case):
    recorded = np.load(FILE)
    if str(case) not in recorded:
        pytest.skip("the official code has not been recorded here")
    options = {"shuffle_size": tuple(map(int, case.form))} if case.kind == "MSGTransformer" else {}
    if case.kind == "TwinsSVT":
        options["mask_padding"] = False
    if case.form != "detection":
        options["out_norm_cfg"] = None
    with torch.device("meta"):  # initial weights of 100 million parameters would take a second
        net = MODELS.build({"type": case.kind, "arch": case.arch, **options}).eval()
    net.to_empty(device="cpu")
    load_state_dict(net, official_state(case, net))
    with torch.no_grad():
        found = digest(net(image(case.height, case.width)))
    assert difference(found, recorded[str(case)]) < 1e-5
    # Maps that differ a little are distinguished.
    assert difference(found, 1.001 * recorded[str(case)]) > 1e-4
