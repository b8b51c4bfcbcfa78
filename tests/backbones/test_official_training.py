"""What the official codes compute in training, recorded by data/make_official_training.py, computed by ours."""

import functools

import numpy as np
import official_layouts
import pytest
from mmdet.registry import MODELS
from official_outputs import weights
from official_training import CASES, CHANNELS, DEPTHS, FILE, HEADS, WINDOWS, Case, difference, record
from torch import Tensor, nn

from localvit_det.checkpoint.layouts import rename_key
from localvit_det.checkpoint.loading import load_state_dict

RECORDED = np.load(FILE)
_CONVS = {"DWNet": "static", "DynamicDWNet": "dynamic", "IDynamicDWNet": "inhomogeneous"}


def official_state(case: Case) -> dict[str, Tensor]:
    """Return tensors with the official names and shapes, and the values of the recorded run."""
    if case.kind == "ShuffleTransformer":
        return weights(official_layouts.shuffle(CHANNELS, DEPTHS, WINDOWS[case.kind], heads=HEADS[0]))
    detection = case.form == "detection"
    return weights(official_layouts.dwnet(CHANNELS, DEPTHS, _CONVS[case.kind], WINDOWS[case.kind], detection))


def build(case: Case) -> nn.Module:
    """Return our network, in float64."""
    arch = {"embed_dims": CHANNELS, "depths": DEPTHS, "num_heads": HEADS, "drop_path_rate": 0.0}
    options = {} if case.form == "detection" else {"out_norm_cfg": None}
    if case.form == "detection":
        options["pad_to_window"] = True  # as the official detection code does
    net = MODELS.build({"type": case.kind, "arch": arch, "window_size": WINDOWS[case.kind], **options}).double()
    load_state_dict(net, official_state(case))
    return net


@functools.cache
def computed(case: Case) -> dict[str, np.ndarray]:
    net = build(case)
    official = {rename_key(name, type(net).official_layout): name for name in official_state(case)}
    return record(net, lambda images: list(net(images)), case, official)


@pytest.mark.parametrize("group", ["eval", "train", "gradients", "statistics"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_official_code(case, group):
    recorded = RECORDED[f"{case} {group}"]
    found = computed(case)[group]
    if group == "gradients":  # of the official classifier's head there are none
        assert found.shape == recorded.shape
    assert difference(found, recorded) < 1e-10
    # Tensors that differ a little are distinguished.
    assert difference(found, recorded * (1 + 1e-6)) > 1e-7
