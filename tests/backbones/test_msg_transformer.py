"""Messengers exchange channels inside their region only, and no token sees padding."""

import pytest
import torch
import torch.nn.functional as F
from attention_by_loops import attention_by_loops
from families import build
from mmdet.registry import MODELS
from torch import Tensor

from localvit_det.backbones import MSGTransformer
from localvit_det.backbones.msg_transformer import MessengerAttention
from localvit_det.layers import messenger
from localvit_det.layers.messenger import (
    cut_positions,
    join_positions,
    join_windows,
    merge_positions,
    shuffle_messengers,
    split_positions,
    split_windows,
    tile_messengers,
)

# In windows, for regions of 2×2: whole regions, one that hangs over on both sides, one alone.
GRIDS = [(2, 2), (4, 6), (3, 5), (1, 1), (2, 3)]


def shuffled_by_loops(x: Tensor, side: int) -> Tensor:
    """The exchange from its definition, one region and one pair of messengers after the other."""
    channels, rows, columns = x.shape[1:]
    width = channels // side**2
    out = x.clone()
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            places = [(top + i, left + j) for i in range(side) for j in range(side)]
            for j, mine in enumerate(places):
                for i, other in enumerate(places):
                    if all(y < rows and x_ < columns for y, x_ in (mine, other)):
                        group = x[(slice(None), slice(j * width, (j + 1) * width), *other)]
                        out[(slice(None), slice(i * width, (i + 1) * width), *mine)] = group
    return out


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("side", [1, 2, 4])
def test_exchange_is_its_definition(side, grid):
    x = torch.randn(2, 32, *grid)
    once = shuffle_messengers(x, side)
    assert torch.equal(once, shuffled_by_loops(x, side))
    assert torch.equal(shuffle_messengers(once, side), x)  # nothing is lost


def test_exchange_in_a_whole_region_is_a_transposition():
    x = torch.randn(1, 8, 2, 2)
    tokens = x.flatten(2)[0].T  # token, channel
    expected = tokens.view(4, 4, 2).transpose(0, 1).reshape(4, 8)
    assert torch.equal(shuffle_messengers(x, 2).flatten(2)[0].T, expected)


def test_first_messengers_repeat_by_region():
    tokens = torch.randn(1, 4, 1, 3)
    tiled = tile_messengers(tokens, 2, (3, 5), batch=2)
    assert tiled.shape == (2, 3, 3, 5)
    for y in range(3):
        for x in range(5):
            assert torch.equal(tiled[1, :, y, x], tokens[0, y % 2 * 2 + x % 2, 0])


@pytest.mark.parametrize("size", [(6, 9), (5, 7), (1, 1)], ids=str)
def test_splitting_undoes_joining(size):
    patches, leaders = torch.randn(2, 4, *size), torch.randn(2, 4, -(-size[0] // 3), -(-size[1] // 3))
    tokens = join_windows(patches, leaders, 3)
    assert tokens.shape == (1, 4, leaders[:, 0].numel(), 10)
    assert torch.equal(tokens[0, :, :, 0].T, leaders.permute(0, 2, 3, 1).flatten(0, 2))
    for split, whole in zip(split_windows(tokens, size, 3), (patches, leaders), strict=True):
        assert torch.equal(split, whole)


def test_splitting_positions_undoes_joining():
    x = torch.randn(2, 4, 5, 7), torch.randn(2, 4, 2, 3)
    joined = join_positions(x)
    assert joined.shape == (2, 4, 1, 41)
    assert torch.equal(joined[..., 35:].flatten(2), x[1].flatten(2))
    for split, whole in zip(split_positions(joined, x), x, strict=True):
        assert torch.equal(split, whole)


@pytest.mark.parametrize("size", [(6, 9), (5, 7), (1, 1)], ids=str)
def test_what_an_index_moves_is_what_plain_operators_move(size, monkeypatch):
    """Windows, positions and the exchange, and their gradients."""
    x = torch.randn(2, 4, *size), torch.randn(2, 4, -(-size[0] // 3), -(-size[1] // 3))
    joined = join_positions(x).requires_grad_()
    found = []
    for by_index in (True, False):
        monkeypatch.setattr(messenger, "reorders", lambda by_index=by_index: by_index)
        cut = cut_positions(joined, x, 3)
        merged = merge_positions(cut * torch.arange(10), x, 3)
        exchanged = shuffle_messengers(split_positions(merged, x)[1], 2)
        weights = torch.arange(exchanged.numel()).view(exchanged.shape)
        grads = torch.autograd.grad((cut.square().sum(), merged.square().sum(), (exchanged * weights).sum()), joined)
        found.append((cut, merged, exchanged, *grads))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("size", [(6, 6), (5, 7)], ids=str)
def test_attention_is_its_definition(size):
    """Each window by itself, its messenger the first token."""
    mixer = MessengerAttention(8, 2, window_size=3, qkv_bias=True).double().eval()
    torch.nn.init.normal_(mixer.relative_position_bias_table)
    torch.nn.init.normal_(mixer.rel_pos_msg)
    torch.nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    leaders = torch.randn(2, 8, -(-size[0] // 3), -(-size[1] // 3), dtype=torch.float64)
    patches, letters = split_windows(mixer(join_windows(x, leaders, 3), x), size, 3)
    q, k, v = mixer.qkv(x).chunk(3, 1)
    q0, k0, v0 = mixer.qkv(leaders).chunk(3, 1)
    as_key, as_query = mixer.rel_pos_msg[:, 0, 0, 0], mixer.rel_pos_msg[:, 1, 0, 0]
    for wy, wx in torch.cartesian_prod(*(torch.arange(n) for n in leaders.shape[2:])).tolist():
        tokens = [(y, x_) for y in range(size[0]) for x_ in range(size[1]) if (y // 3, x_ // 3) == (wy, wx)]
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)

            def of(maps: Tensor, lead: Tensor, own=own, tokens=tokens, wy=wy, wx=wx) -> Tensor:  # B, 1 + tokens, d
                return torch.stack([lead[:, own, wy, wx], *(maps[:, own, y, x_] for y, x_ in tokens)], 1)

            logits = of(q, q0) @ of(k, k0).transpose(1, 2) / 2
            bias = logits.new_zeros(1 + len(tokens), 1 + len(tokens))
            bias[1:, 0], bias[0] = as_key[head], as_query[head]
            for i, (y, x_) in enumerate(tokens):
                for j, (ky, kx) in enumerate(tokens):
                    row = (y - ky + 2) * 5 + x_ - kx + 2
                    bias[1 + i, 1 + j] = mixer.relative_position_bias_table[row, head]
            mixed = (logits + bias).softmax(-1) @ of(v, v0)
            torch.testing.assert_close(before_projection(mixer, letters)[:, own, wy, wx], mixed[:, 0])
            for i, (y, x_) in enumerate(tokens):
                torch.testing.assert_close(before_projection(mixer, patches)[:, own, y, x_], mixed[:, 1 + i])


def before_projection(mixer: MessengerAttention, out: Tensor) -> Tensor:
    """What the projection was given for an output."""
    inverse = torch.linalg.inv(mixer.proj.weight[:, :, 0, 0])
    return torch.einsum("oc,bcyx->boyx", inverse, out - mixer.proj.bias[:, None, None])


def test_an_unheard_messenger_leaves_window_attention():
    mixer = MessengerAttention(8, 2, window_size=3).double().eval()
    torch.nn.init.constant_(mixer.rel_pos_msg[:, 0], -1e4)
    x, leaders = torch.randn(1, 8, 5, 7, dtype=torch.float64), torch.randn(1, 8, 2, 3, dtype=torch.float64)
    patches, _ = split_windows(mixer(join_windows(x, leaders, 3), x), (5, 7), 3)
    torch.testing.assert_close(patches, attention_by_loops(mixer, x))


@pytest.mark.parametrize("size", [(75, 92), (61, 130)], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_what_padding_holds_reaches_no_real_token(size, fused, monkeypatch):
    net = build("MSGTransformer").double().eval()
    net = net.fuse() if fused else net
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        zeros = net(x)
        padded = []

        def garbage(y: Tensor, divisor: int) -> Tensor:
            pad = (0, -y.shape[-1] % divisor, 0, -y.shape[-2] % divisor)
            padded.append(any(pad))
            outside = F.pad(torch.zeros_like(y), pad, value=50.0)
            # Different in each channel, or a norm would make zeros of them.
            return F.pad(y, pad) + outside * torch.randn_like(outside)

        monkeypatch.setattr(messenger, "pad_to_multiple", garbage)
        monkeypatch.setattr(messenger, "reorders", lambda: False)  # an index leaves zeros there
        for a, b in zip(net(x), zeros, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert any(padded)


def test_windows_speak_inside_their_region_only():
    """After two blocks a window sees what was in the others of its region, in other regions nothing."""
    net = build("MSGTransformer", shuffle_size=(2, 2, 1, 1)).double().eval()
    x = torch.randn(1, 32, 9, 12, dtype=torch.float64, requires_grad=True)  # 3×4 windows: 4 regions, 2 hang over
    y = net.stem.accompany(x)
    for block in net.stages[0].blocks:
        y = block(y)
    for (top, left), seen in {(0, 0): (slice(0, 6), slice(0, 6)), (6, 9): (slice(6, 9), slice(6, 12))}.items():
        (grad,) = torch.autograd.grad(y[0][:, :, top : top + 3, left : left + 3].sum(), x, retain_graph=True)
        touched = grad.abs().sum((0, 1)) > 0
        expected = torch.zeros_like(touched)
        expected[seen] = True
        assert torch.equal(touched, expected)


def test_a_dropped_branch_is_dropped_for_map_and_messengers():
    block = build("MSGTransformer").stages[0].blocks[0].train()
    block.drop_path.drop_prob = 1 - 1e-12
    patches, leaders = torch.randn(3, 32, 6, 6), torch.randn(3, 32, 2, 2)
    kept, moved = block((patches, leaders))
    assert torch.equal(kept, patches)
    assert torch.equal(moved, shuffle_messengers(leaders, 4))  # the exchange goes on


def test_regions_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"64 channels cannot be cut into 9 equal groups"):
        MODELS.build({"type": "MSGTransformer", "shuffle_size": (3, 3, 2, 1)})
    with pytest.raises(ValueError, match="must be 4 numbers"):
        MODELS.build({"type": "MSGTransformer", "shuffle_size": (4, 4, 2)})
    assert issubclass(MODELS.get("MSGTransformer"), MSGTransformer)
