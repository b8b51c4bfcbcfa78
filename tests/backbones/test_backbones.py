"""One contract for every backbone of the package, found through MMDetection's registry."""

import copy
import functools
import math
import re

import pytest
import torch
from contract import CASES, NotApplicable
from families import FAMILIES, FEW, build, mixer_inputs
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.feature_extraction import create_feature_extractor

from localvit_det.backbones import LocalViT
from localvit_det.layers import trunc_normal_

SIZES = [(64, 64), (61, 75), (33, 200), (1, 1), (7, 5)]


def total(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A scalar that depends on every element of the maps, each with its own weight."""
    generator = torch.Generator().manual_seed(3)
    return sum((m * torch.randn(m.shape, generator=generator)).sum() for m in maps)


def sums(x: torch.Tensor) -> torch.Tensor:
    """Eight sums of all elements, each with its own weights."""
    weights = torch.randn(8, x.numel(), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return weights @ x.flatten() / x.numel() ** 0.5


def test_all_families_are_found():
    assert {"DWNet", "DynamicDWNet", "GGTransformer", "IDynamicDWNet", "ShuffleTransformer"} <= set(FAMILIES)
    assert {"TwinsPCPVT", "TwinsSVT"} <= set(FAMILIES)
    assert "MSGTransformer" in FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
class TestContract:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_maps_have_the_declared_channels_and_strides(self, family, size):
        net = build(family, out_indices=(0, 2, 3)).eval()
        maps = net(torch.randn(2, 3, *size))
        assert net.out_channels == (32, 128, 256)
        assert net.out_strides == (4, 16, 32)
        for feature, channels, stride in zip(maps, net.out_channels, net.out_strides, strict=True):
            assert feature.shape == (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            assert torch.isfinite(feature).all()
            assert feature.is_contiguous(memory_format=torch.channels_last)

    def test_windows_are_declared_where_their_size_matters(self, family):
        small, large = build(family, window_size=3).eval(), build(family, window_size=5).eval()
        image, weights = torch.randn(1, 3, 40, 40), small.state_dict()
        same = {name: t.shape for name, t in weights.items()} == {n: t.shape for n, t in large.state_dict().items()}
        if same:
            large.load_state_dict(weights)
            same = torch.equal(small(image)[0], large(image)[0])
        assert MODELS.get(family).has_windows == (not same)

    def test_widths_and_ratios_may_be_given_per_stage(self, family):
        widths = (32, 48, 96, 160)
        if "num_heads" in MODELS.get(family).accepted_arguments():
            widths = (32, 64, 160, 256)
        net = build(family, embed_dims=widths, mlp_ratio=(1, 2, 3, 4), out_indices=(0, 2, 3)).eval()
        maps = net(torch.randn(1, 3, 48, 70))
        assert tuple(m.shape[1] for m in maps) == net.out_channels == (widths[0], *widths[2:])
        assert MODELS.get(family).out_channels_of({"embed_dims": widths, "out_indices": (0, 3)}) == widths[::3]
        hidden = [stage.blocks[0].mlp.fc1.out_channels for stage in net.stages]
        assert hidden == [ratio * width for ratio, width in zip((1, 2, 3, 4), widths, strict=True)]

    def test_every_parameter_gets_a_gradient(self, family):
        net = build(family, drop_path_rate=0.0).train()
        total(net(torch.randn(2, 3, 65, 70))).backward()
        without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # A bias before a BatchNorm shifts a mean that is subtracted again: its gradient is zero up to rounding,
        # but it must be there.
        assert not [n for n in without if net.get_parameter(n).grad is None]
        assert all(n.endswith("bias") for n in without), without

    @pytest.mark.parametrize("option", ["with_cp", "recompute_activations"])
    def test_recomputing_changes_neither_maps_nor_gradients_nor_statistics(self, family, option):
        x = torch.randn(2, 3, 45, 50)
        results = []
        for value in (False, True):
            torch.manual_seed(1)
            net = build(family, **{option: value}, drop_path_rate=0.3, drop_rate=0.1).train()
            torch.manual_seed(2)
            maps = net(x)
            total(maps).backward()
            results.append((maps, [p.grad for p in net.parameters()], list(net.buffers())))
        for plain, recomputed in zip(*results, strict=True):
            torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-6)

    def test_recomputing_keeps_less_for_backward(self, family):
        def saved_bytes(net: LocalViT) -> int:
            saved: dict[int, int] = {}

            def keep(tensor: torch.Tensor) -> torch.Tensor:
                storage = tensor.untyped_storage()
                saved[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                maps = net(torch.randn(2, 3, 64, 64))
            assert maps
            return sum(saved.values())

        parameters = sum(p.nbytes for p in build(family).parameters())
        options = {"recompute_activations": False}, {"recompute_activations": True}, {"with_cp": True}
        full, recomputed, checkpointed = (saved_bytes(build(family, **o).train()) - parameters for o in options)
        assert recomputed < 0.85 * full
        assert checkpointed < 0.5 * recomputed

    def test_freezing_holds_from_the_first_moment(self, family):
        net = build(family, frozen_stages=2)
        for _ in range(2):
            frozen = [net.stem, *net.stages[:2], net.out_norms["0"], net.out_norms["1"]]
            for module in frozen:
                assert not any(p.requires_grad for p in module.parameters())
                assert not any(m.training for m in module.modules())
            assert all(p.requires_grad for p in net.stages[2].parameters())
            assert all(p.requires_grad for p in net.out_norms["2"].parameters())
            assert net.train() is net
        before = [b.clone() for m in frozen for b in m.buffers()]
        net(torch.randn(2, 3, 64, 64))
        torch.testing.assert_close([b for m in frozen for b in m.buffers()], before, rtol=0, atol=0)
        assert net.stages[3].training

    def test_frozen_stage_zero_is_the_stem_alone(self, family):
        net = build(family, frozen_stages=0)
        assert not any(p.requires_grad for p in net.stem.parameters())
        assert all(p.requires_grad for p in net.stages.parameters())

    def test_norm_eval_fixes_batch_norms(self, family):
        net = build(family, norm_eval=True).train()
        assert not any(m.training for m in net.modules() if isinstance(m, _BatchNorm))
        assert net.stages[0].training

    def test_mixer_gradients(self, family):
        net = build(family).double().eval()
        for stage, index in ((0, 0), (0, 1)):
            block = net.stages[stage].blocks[index]
            x = torch.randn(1, 32, 4, 5, dtype=torch.float64, requires_grad=True)
            direction = torch.randn(32, 4, 5, dtype=torch.float64)
            # Along one random direction each: all 640 inputs one by one would take minutes. Not in `fast_mode`, whose
            # tolerance grows with the number of outputs: it passes gradients that are 1% wrong.
            assert torch.autograd.gradcheck(
                lambda scale, x=x, d=direction, m=block.mixer: sums(m(*mixer_inputs(net, x + scale * d))),
                (torch.zeros((), dtype=torch.float64, requires_grad=True),),
            )

    def test_images_do_not_influence_each_other(self, family):
        net = build(family).eval()
        x = torch.randn(3, 3, 50, 44)
        together = net(x)
        for i in range(3):
            alone = net(x[i : i + 1])
            for a, b in zip(alone, together, strict=True):
                torch.testing.assert_close(a[0], b[i], rtol=1e-4, atol=1e-5)

    def test_mistakes_are_named(self, family):
        with pytest.raises(ValueError, match="no arch 'huge'; choose from"):
            MODELS.build({"type": family, "arch": "huge"})
        with pytest.raises(ValueError, match=r"out_indices=\(0, 4\) must name stages among \(0, 1, 2, 3\)"):
            build(family, out_indices=(0, 4))
        for stages in ((0, 0, 3), (3, 0)):  # in earlier versions sorted, so that a neck's inputs were not those listed
            said = re.escape(f"out_indices={stages} must name each stage once, in ascending order: write (0, 3).")
            with pytest.raises(ValueError, match=said):
                build(family, out_indices=stages)
            with pytest.raises(ValueError, match=said):
                MODELS.get(family).out_channels_of({"out_indices": stages})
        with pytest.raises(RuntimeError, match="device type at start of device string: gpu"):
            build(family, device="gpu")
        with pytest.raises(ValueError, match="frozen_stages"):
            build(family, frozen_stages=5)
        with pytest.raises(ValueError, match="one per stage"):
            build(family, embed_dims=(32, 64))
        with pytest.raises(TypeError, match="windowsize"):
            build(family, windowsize=7)
        with pytest.raises(ValueError, match="needs 'depths'"):
            MODELS.build({"type": family, "arch": {"embed_dims": 32}})


@pytest.mark.parametrize("family", FAMILIES)
def test_skip_init_takes_the_class(family):
    """It asks a class for an argument `device`; that of the contract goes by the factory."""
    net = build(family)
    options = {"arch": net.arch, "window_size": 3, "mlp_ratio": 2.0, "out_norm_cfg": "default"}
    other = torch.nn.utils.skip_init(type(net), **options, device="meta")
    assert {name: p.shape for name, p in other.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}
    assert all(p.is_meta for p in other.parameters())


EVEN = [
    *((family, {"window_size": 4}) for family in ("ShuffleTransformer", "DWNet", "DynamicDWNet", "IDynamicDWNet")),
    ("GGTransformer", {"gaze_kernels": (9, 5, 2, 3)}),
]


@pytest.mark.parametrize(("family", "options"), EVEN)
def test_even_kernels_are_refused(family, options):
    """Before any layer is made: a convolution of an even side would shift the feature map, or change its size."""
    ((name, sides),) = options.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={sides} must be odd: ")):
        build(family, **options)


@pytest.mark.parametrize("family", ["GGTransformer", "MSGTransformer", "TwinsSVT"])
def test_even_windows_of_attention_are_windows_like_any(family):
    net = build(family, window_size=4).eval()
    assert [m.shape[1:] for m in net(torch.randn(1, 3, 37, 50))] == [
        (c, -(-37 // s), -(-50 // s)) for c, s in zip(net.out_channels, net.out_strides, strict=True)
    ]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("where", ["", "neck."])
def test_weights_of_stages_that_are_not_built_are_counted(where, assign, capsys):
    """Loaded into a network without its fourth stage, alone or inside another module; what else is left over raises."""
    whole, net = build("DWNet"), build("DWNet", out_indices=(0, 1, 2)).eval()
    target = nn.ModuleDict({"neck": net}) if where else net
    state = {where + name: value for name, value in whole.state_dict().items()}
    later = sum(name.startswith((f"{where}stages.3.", f"{where}out_norms.3.")) for name in state)
    target.load_state_dict(state, assign=assign)
    assert capsys.readouterr().out.count(f"out_indices=(0, 1, 2) need no later stages: {later} of their tensors") == 1
    assert len(state) == len(whole.state_dict())  # as it was given
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(net(x), whole.eval()(x)[:3])
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \S*stages.2.blocks.9.x"):
        target.load_state_dict({**state, f"{where}stages.2.blocks.9.x": torch.zeros(1)}, assign=assign)


def test_plain_init_cfg_reaches_the_weights():
    net = build("ShuffleTransformer", init_cfg={"type": "Constant", "layer": "Conv2d", "val": 0.25})
    net.init_weights()
    assert all((m.weight == 0.25).all() for m in net.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.slow
def test_drop_path_schedules():
    shuffle = MODELS.build({"type": "ShuffleTransformer", "drop_path_rate": 0.3})
    rates = [[round(b.drop_path.drop_prob, 4) for b in stage.blocks] for stage in shuffle.stages]
    assert rates == [[0.0] * 2, [0.1] * 2, [0.2] * 6, [0.3] * 2]
    gg = MODELS.build({"type": "GGTransformer", "drop_path_rate": 0.22})
    rates = [round(b.drop_path.drop_prob, 4) for stage in gg.stages for b in stage.blocks]
    assert rates == [round(0.02 * i, 4) for i in range(12)]


def test_glance_takes_a_position_bias():
    torch.manual_seed(0)
    net = build("GGTransformer", position_bias=True).eval()
    tables = [p for name, p in net.named_parameters() if name.endswith("relative_position_bias_table")]
    x = torch.randn(1, 3, 80, 72)
    with torch.no_grad():
        for table in tables:
            table.normal_()
        biased = net(x)
        fused = copy.deepcopy(net).fuse()(x)
        for table in tables:
            table.zero_()
        plain = net(x)
    assert len(tables) == sum(net.depths)
    for a, b, c in zip(biased, fused, plain, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        assert (a - c).norm() > 1e-3 * a.norm()


@pytest.mark.parametrize("family", FEW)
def test_fx_takes_feature_maps_from_between(family):
    """With the leaves that docs/backbones.md names."""
    net = build(family).eval()
    parts = [net.stem] + [part for stage in net.stages for part in (stage.downsample, *stage.blocks)]
    leaves = {"leaf_modules": [type(part) for part in parts]}
    nodes = {net.feature_info.module_name(0): "first", "stages.1.blocks.0": "middle"}
    extractor = create_feature_extractor(net, nodes, tracer_kwargs=leaves)
    seen = []
    net.stages[1].blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        first, found = net(x)[0], extractor(x)
    torch.testing.assert_close(found["first"], first, rtol=0, atol=0)
    torch.testing.assert_close(found["middle"], seen[-1], rtol=0, atol=0)


SLOW = {"adapters_have_effect", "torch_func", "wrapped_layers_are_not_fused", "written_weights_are_used_when_fused"}
QUICK = ("MSGTransformer",)  # which has most of its own


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_case(name, family):
    try:
        CASES[name](functools.partial(build, family, window_size=5, depths=(2, 1, 1, 1)))  # both kinds of blocks
    except NotApplicable as reason:
        pytest.skip(str(reason))


LIMIT = 6.0  # standard deviations


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_fresh_weight(family):
    for name, weight in build(family).named_parameters():
        if weight.dim() > 1:
            assert weight.abs().max() <= LIMIT * max(weight.std(), 0.02), name


def test_as_many_numbers_as_a_network_has():
    """The inverse distribution function, which MMEngine uses, gives -2.0 once in 2^24 numbers."""
    torch.manual_seed(0)
    numbers = trunc_normal_(torch.empty(2**25))
    assert numbers.abs().max() <= 0.1
    assert numbers.std() == pytest.approx(0.02, rel=1e-3)
    assert abs(numbers.mean()) < 2e-5
