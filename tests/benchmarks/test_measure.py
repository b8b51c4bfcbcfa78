"""What is counted: rounds, bytes that are held, peaks of memory, ranges for fp16, traffic on a GPU with its budgets."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks import ranges
from benchmarks.backbones import parse_row
from benchmarks.measure import allocator_peak, held_bytes, in_fresh_process, process_peak, time_interleaved
from benchmarks.results import read
from benchmarks.traffic import GIB, Traffic, count
from localvit_det.ops import recomputed

pytestmark = pytest.mark.measuring


def test_rounds_are_interleaved_and_the_order_moves_on():
    order: list[str] = []
    samples = time_interleaved([lambda name=name: order.append(name) for name in "abc"], rounds=3, warmup=1)
    assert "".join(order) == "cab" + "abcbcacab"
    assert [len(times) for times in samples] == [3, 3, 3]  # the first round does not count


class TestHeldBytes:
    def test_by_hand(self):
        """A layer keeps its input, which was there before; a ReLU keeps its output, which is the network's."""
        net = nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
        x = torch.ones(3, 8)
        assert held_bytes(lambda: [net(x)]) == 3 * 4 * 4 + 3 * 2 * 4

    def test_nothing_is_kept_without_gradients(self):
        net, x = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 2)), torch.ones(3, 8)
        with torch.no_grad():
            assert held_bytes(lambda: [net(x)]) == 3 * 2 * 4

    def test_checkpoint_keeps_its_input_only(self):
        net = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8), nn.GELU())
        x = torch.ones(3, 8, requires_grad=True)
        kept = held_bytes(lambda: [checkpoint(net, x, use_reentrant=False, preserve_rng_state=False)])
        assert kept == 3 * 8 * 4
        assert held_bytes(lambda: [net(x)]) > 3 * 64 * 4

    def test_cheap_outputs_are_not_held(self):
        product, x = nn.Linear(8, 2, bias=False), torch.ones(3, 8, requires_grad=True)

        assert held_bytes(lambda: [recomputed(nn.GELU(), product, x)]) == 3 * 2 * 4


class TestPeaks:
    def test_allocator(self):
        def run() -> None:
            first = torch.ones(1000, 250)
            second = first + 1  # both alive: 2 MB
            del first
            third = second[:100] * 2  # 1.1 MB
            del second, third

        assert 2_000_000 <= allocator_peak(run) < 2_001_000

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_resident_peak_of_a_fresh_process(self):
        start, peak = in_fresh_process(_peak_of_ones, 100 * 2**20)
        # The kernel's counters of resident memory lag by some pages.
        assert 99 * 2**20 < peak - start < 130 * 2**20


def _peak_of_ones(size: int) -> tuple[int, int]:
    torch.ones(3 * size, dtype=torch.uint8)  # before: must not count
    return process_peak(lambda: torch.ones(size, dtype=torch.uint8))


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


# Two images of 800×1344, fp32: kernels and GiB, forward and backward. Less is welcome: write it here.
BUDGET = {
    "shuffle_t": (395, 13.6, 331, 24.2),
    "gg_t": (278, 12.4, 303, 21.7),
    "dwnet_t": (258, 10.6, 256, 18.3),
    "ddwnet_t": (354, 11.4, 450, 20.8),
    "msg_t": (622, 13.2, 645, 23.6),
    "pcpvt_s": (249, 11.7, 407, 23.5),
    "svt_s": (330, 8.5, 420, 16.2),
}
SHARE = {"shuffle_t": (0.85, 0.75), "gg_t": (0.85, 0.75)}  # of Swin's traffic


def cost(row: str) -> tuple[float, float, float, float]:
    forward, backward = count(parse_row(row).build(), (800, 1344))
    sums = ((traffic.kernels.total(), traffic.bytes.total() / GIB) for traffic in (forward, backward))
    return tuple(number for pair in sums for number in pair)


@pytest.fixture(scope="module")
def swin() -> tuple[float, float, float, float]:
    return cost("swin_t")


@pytest.mark.parametrize("row", BUDGET)
def test_families_keep_to_their_budget(row, swin):
    found = cost(row)
    assert all(number <= most for number, most in zip(found, BUDGET[row], strict=True)), found
    for number, base, share in zip(found[1::2], swin[1::2], SHARE.get(row, ()), strict=False):
        assert number <= share * base


def test_what_is_read_and_written():
    """A product, a sum in place, a view, an allocation, and a copy of what is expanded."""
    x, weight = torch.empty(8, 16, device="meta"), torch.empty(4, 16, device="meta")
    with Traffic() as traffic:
        y = nn.functional.linear(x, weight)
        y.add_(1)
        y.view(-1)
        torch.empty_like(y)
        weight[:1].expand(8, 16).clone()
    assert dict(traffic.kernels) == {"mm": 1, "add_": 1, "clone": 1}
    assert traffic.bytes["mm"] == 4 * (8 * 16 + 4 * 16 + 8 * 4)
    assert traffic.bytes["add_"] == 4 * 2 * 8 * 4
    assert traffic.bytes["clone"] == 4 * (16 + 8 * 16)


def test_a_convolution_keeps_the_layout_of_its_input_and_filling_moves_what_is_filled():
    conv = nn.Conv2d(3, 4, 2, stride=2).to("meta")
    x = torch.empty(2, 3, 8, 8, device="meta").contiguous(memory_format=torch.channels_last)
    rows, index = torch.empty(10, 4, device="meta"), torch.empty(3, dtype=torch.long, device="meta")
    with Traffic() as traffic:
        assert conv(x).is_contiguous(memory_format=torch.channels_last)
        assert conv(x.contiguous()).is_contiguous()
        rows.index_fill_(0, index, 0)
    assert traffic.bytes["index_fill_"] == 4 * 3 * 4


def test_backward_is_counted():
    forward, backward = count(nn.Conv2d(3, 4, 1, bias=False), (5, 6), batch=2)
    assert dict(forward.kernels) == {"convolution": 1}
    assert dict(backward.kernels) == {"convolution_backward": 1}
    image, out, weight = (4 * n for n in (2 * 3 * 5 * 6, 2 * 4 * 5 * 6, 3 * 4))
    assert forward.bytes.total() == image + weight + out
    assert backward.bytes.total() == out + image + weight + weight  # the image needs no gradient
