"""Residual branches."""

import torch
from mmcv.cnn.bricks import DropPath

from localvit_det.layers import add


def test_residual_branch_is_dropped_for_some_images_and_scaled_for_the_rest():
    drop_path = DropPath(0.25).train()
    x, branch = torch.randn(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    added = add(x, branch, drop_path) - x
    assert set(added.flatten().mul(3).round().tolist()) == {0.0, 4.0}  # nothing, or 1 / (1 - 0.25)
    assert abs(added.mean() - 1) < 0.05
    torch.testing.assert_close(add(x, branch, drop_path.eval()), x + branch)
