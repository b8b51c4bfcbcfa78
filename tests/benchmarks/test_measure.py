"""Rounds, bytes that are held, and the peaks of a process and of the allocator."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import allocator_peak, held_bytes, in_fresh_process, process_peak, time_interleaved
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
