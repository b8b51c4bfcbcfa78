"""docs/windows.png shows what the code does."""

import runpy

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from matplotlib import image


@pytest.fixture(scope="module")
def tool() -> dict:
    return runpy.run_path(str(REPOSITORY / "docs/draw_windows.py"))


def test_numbers_of_windows_are_those_of_the_papers(tool):
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    assert torch.equal(tool["windows_of_tokens"](12, 4, "local"), y // 4 * 3 + x // 4)
    assert torch.equal(tool["windows_of_tokens"](12, 4, "dilated"), y % 3 * 3 + x % 3)


def test_figure_is_current(tool, tmp_path):
    tool["main"](["--out", str(tmp_path / "windows.png")])
    drawn, kept = image.imread(tmp_path / "windows.png"), image.imread(REPOSITORY / "docs/windows.png")
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01  # other fonts may move a digit
