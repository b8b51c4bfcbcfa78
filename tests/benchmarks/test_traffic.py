"""What a training step costs on a GPU, counted: the counter, and the budget of each family."""

import pytest
import torch
from torch import nn

from benchmarks.backbones import parse_row
from benchmarks.traffic import GIB, Traffic, count

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
