"""Ranges for fp16: the largest number that any operator makes is found; what only moves numbers is left out."""

import pytest
import torch
from torch import nn

from benchmarks import ranges
from benchmarks.results import read

pytestmark = pytest.mark.measuring


def test_largest_outputs_of_operators():
    x, weight = torch.full((2, 3), 100.0), torch.full((3, 4), 300.0)
    with ranges.Ranges() as forward:
        (x @ weight).reshape(4, 2).relu()
    assert forward.largest == {"mm": 90_000.0, "relu": 90_000.0}
    assert ranges.largest_of(forward, False) == ("mm", 90_000.0)
    assert ranges.largest_of(forward, True) == ("", 0.0)


def test_largest_gradients_of_inputs():
    """Neither the loss's own nor what is recomputed for the backward pass, which are no gradients of layers."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    nn.init.constant_(net[0].weight, 7.0)
    nn.init.constant_(net[1].weight, 300.0)
    found = ranges.watch_gradients(net)
    (
        net(torch.ones(1, 3, requires_grad=True)).sigmoid() * 0 + net(torch.ones(1, 3, requires_grad=True))
    ).sum().backward()
    assert found.largest == {"Linear": 4 * 7 * 600.0}


def test_overflow_is_found_before_it_happens(capsys, tmp_path, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            nn.init.constant_(self.conv.weight, 1e4)

        def forward(self, x):
            return (self.conv(x),)

    monkeypatch.setattr(ranges.Row, "build", lambda row: Net(), raising=True)
    ranges.main(["dwnet_t", "--steps", "1", "--size", "64", "--batch", "2", "--csv", str(tmp_path / "r.csv")])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| dwnet_t"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == "convolution"
    assert float(cells[2]) > ranges.LIMIT
    assert float(cells[4]) < 1
    (record,) = read(tmp_path / "r.csv")["ranges"].records
    assert record.get("largest activation") == pytest.approx(float(cells[2]), rel=0.01)
