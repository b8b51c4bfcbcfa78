"""The backbone of what was trained, as a file of its own."""

import pytest
import torch

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.engine import write_backbone
from localvit_det.errors import CheckpointError


@pytest.mark.parametrize(("stages", "kept"), [("3", False), ("0123", True)])
def test_norms_in_the_trunk_stay(tmp_path, stages, kept):
    """A classifier has one, after its last stage; a segmentor and Twins-SVT have one in each."""
    state = {f"backbone.out_norms.{i}.weight": torch.full((2,), 3.0) for i in stages}
    state |= {"backbone.stem.norm.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save({"state_dict": state, "meta": {"iter": 7}}, tmp_path / "x.pth")
    content = load_weights_only(write_backbone(tmp_path / "x.pth", tmp_path / "y.pth"))
    norms = {f"out_norms.{i}.weight" for i in stages} if kept else set()
    assert content["state_dict"].keys() == norms | {"stem.norm.weight"}
    assert content["meta"] == {"source": "x.pth", "epoch": None, "iter": 7}


def test_a_file_without_a_backbone(tmp_path):
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no backbone"):
        write_backbone(tmp_path / "x.pth", tmp_path / "y.pth")
    assert not (tmp_path / "y.pth").exists()
