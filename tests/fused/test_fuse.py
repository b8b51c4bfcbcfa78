"""Fusing, bands of rows, hooks, tracing and compiling change no output."""

import pytest
import torch
from families import FAMILIES, FEW, block_input, build, build_short
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.backbones import LocalViT
from localvit_det.fused import blocks
from localvit_det.layers import fusible


def settle(net: LocalViT) -> LocalViT:
    """Gives BatchNorms statistics and weights that are not the initial ones, as training would."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # plain averages
    with torch.no_grad():
        for _ in range(2):
            net.train()(torch.randn(2, 3, 96, 80))
    return net.eval()


def has_variant(net: LocalViT) -> bool:
    """Whether all blocks have fused variants; they are optional."""
    return all(type(block) in fusible._VARIANTS for stage in net.stages for block in stage.blocks)


@pytest.mark.parametrize(("shift", "folds"), [(0.4, True), (0.6, False), (None, False)])
def test_norm_inside_the_shuffle_block_folds_where_its_shift_is_small(shift, folds):
    net = settle(build("ShuffleTransformer")).double()
    with torch.no_grad():
        for stage in net.stages:
            for block in stage.blocks:
                norm = block.norm_local
                norm.bias.copy_(0.4 * norm.weight)
                if shift is None:
                    norm.weight[0] = 0  # a dead channel: shift over scale is infinite
                else:
                    norm.bias[0] = -shift * norm.weight[0]
        x = torch.randn(2, 3, 75, 92, dtype=torch.float64)
        before = net(x)
        after = net.fuse()(x)
    assert all(isinstance(b.norm_local, nn.Identity) is folds for stage in net.stages for b in stage.blocks)
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def parts(x: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """All that a block returns."""
    return (x,) if isinstance(x, torch.Tensor) else tuple(x)


def distance(maps: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    return max(float((m - e).norm() / e.norm()) for m, e in zip(maps, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_backbone_with_packed_products(family):
    net = settle(build(family))
    x = torch.randn(2, 3, 75, 92)
    half = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad():
        before = net(x)
        with half:
            rounding = distance(net(x), before)
        net.fuse()
        assert distance(net(x), before) < 1e-4
        with half:  # these nets, hardly trained, amplify rounding: not more than without packing
            assert distance(net(x), before) < 1.5 * rounding
    # Recorded, the same weights run as ordinary convolutions.
    assert distance(net(x), before) < 1e-4


@pytest.mark.parametrize("family", FEW)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # a trace is for one size
def test_fused_backbone_can_be_traced(family):
    net = settle(build(family)).fuse()
    first, second = torch.randn(2, 1, 3, 75, 92)
    with torch.no_grad():
        traced = torch.jit.trace(net, first, check_trace=False)  # compared below, by norms
        assert "mkldnn" not in str(traced.inlined_graph)  # only what other runtimes know
        assert distance(traced(second), net(second)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiles_to_one_graph_for_each_size(family):
    """For inference; tests/backbones/test_compiled_training.py has the other."""
    graphs = CompileCounter()
    net = build_short(family, stages=1).eval()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=graphs, fullgraph=True, dynamic=False)  # an error where the graph breaks
    with torch.no_grad():
        for size, expected in [((75, 92), 1), ((75, 92), 1), ((96, 80), 2)]:
            x = torch.randn(2, 3, *size)
            assert distance(compiled(x), net(x)) < 1e-5
            assert graphs.frame_count == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(224, 64), (203, 75)], ids=str)
def test_bands_of_rows_give_the_same_maps(family, size, monkeypatch):
    net = settle(build(family)).double()
    variant = has_variant(net)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    cuts = []
    original = blocks.cut_into_bands
    monkeypatch.setattr(blocks, "_BAND_BYTES", 20_000)
    monkeypatch.setattr(blocks, "cut_into_bands", lambda *a: cuts.append(original(*a)) or cuts[-1])
    norms = sum(isinstance(m, _BatchNorm) for m in net.modules())
    with torch.no_grad():
        plain = net(x)
    assert net.fuse() is net
    assert not (norms and variant) or sum(isinstance(m, _BatchNorm) for m in net.modules()) < norms
    whole = net(x)  # with gradients recorded nothing is cut
    assert not cuts
    with torch.no_grad():
        banded = net(x)
    assert not variant or max(len(c) for c in cuts) > 2
    for a, b, c in zip(banded, whole, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reach", [blocks.POINTWISE, (7, "local"), (7, "dilated")], ids=str)
@pytest.mark.parametrize(("channels", "side"), [(64, 256), (128, 128), (96, 250)])
def test_bands_are_small_and_take_every_row_once(channels, side, reach):
    x = torch.empty(1, channels, side, side, device="meta")
    cuts = blocks.cut_into_bands(x, *reach)
    assert sorted(row for band in cuts for s in band for row in range(s.start, s.stop)) == list(range(side))
    rows = [sum(s.stop - s.start for s in band) for band in cuts]
    assert 4 * max(rows) * side * channels * 4 < 32 * 2**20  # a hidden layer of four times the channels, in bytes


WHOLE = {  # norms that look at more than one position
    "GN": {"type": "GN", "num_groups": 4},
    "IN": {"type": "IN", "affine": True},
    "BN": {"type": "BN", "track_running_stats": False},
}


@pytest.mark.parametrize("norm", WHOLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_of_whole_maps_are_not_cut_into_bands(family, norm, monkeypatch):
    if family == "MSGTransformer":
        with pytest.raises(ValueError, match="would mix the windows of all images of a batch: set norm_cfg"):
            build(family, norm_cfg=WHOLE[norm])
        return
    if (family, norm) == ("DynamicDWNet", "IN"):
        pytest.skip("its generator has one position, which InstanceNorm refuses")
    monkeypatch.setattr(blocks, "_BAND_BYTES", 20_000)
    net = build(family, norm_cfg=WHOLE[norm]).double().eval()
    x = torch.randn(2, 3, 203, 75, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        for a, b in zip(net.fuse()(x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_fusing_again_changes_nothing(family):
    net = settle(build(family)).fuse()
    modules = dict(net.named_modules())
    x = torch.randn(1, 3, 75, 92)
    with torch.no_grad():
        once = net(x)
        twice = net.fuse()(x)
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(a, b) for a, b in zip(twice, once, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_fusing_a_part_leaves_the_original_as_it_was(family):
    net = settle(build(family))
    if not has_variant(net):
        pytest.skip("its blocks have no fused variant: `fuse()` replaces their parts in place")
    block = net.stages[0].blocks[1]
    state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    x = block_input(net, torch.randn(1, 32, 9, 12))
    with torch.no_grad():
        expected = parts(block(x))
        fused = block.fuse()
        assert distance(parts(fused(x)), expected) < 1e-5
        torch.testing.assert_close(parts(block(x)), expected, rtol=0, atol=0)
    assert fused is not block
    assert all(torch.equal(tensor, state[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_helpers_that_call_fuse_on_every_part_work(family):
    """What timm's `reparameterize_model` does: it puts in place what `fuse()` of each child returns."""

    def reparameterize(module: nn.Module) -> None:
        for name, child in module.named_children():
            if hasattr(child, "fuse"):
                setattr(module, name, child.fuse())
            reparameterize(child)

    net = settle(build(family))
    x = torch.randn(1, 3, 75, 92)
    with torch.no_grad():
        expected = net(x)
        reparameterize(net)
        assert distance(net(x), expected) < 1e-4


class AddOne(nn.Module):
    """A mixer that takes the norm before it."""

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        self.norm = norm
        return nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(x) if hasattr(self, "norm") else x) + 1


def test_a_plain_mixer_may_take_the_norm_before_it():
    from localvit_det.layers import Block, ConvMlp

    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    for norm in norms:
        nn.init.normal_(norm.running_mean)
    block = Block(norms[0], AddOne(), norms[1], ConvMlp(4, 8, {"type": "GELU"}), 0.0).eval()
    x = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        expected = block(x)
        fused = block.fuse()
        assert isinstance(fused.norm1, nn.Identity)
        torch.testing.assert_close(fused(x), expected)


def test_fusing_puts_into_eval_mode():
    assert not build("ShuffleTransformer").train().fuse().training
