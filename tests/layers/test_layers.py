"""Windows and masks, convolutions of our own, packed products, residual branches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import nn

from localvit_det.layers import (
    POINTWISE,
    DepthwiseConv2d,
    PackedPointwise,
    WindowAttention,
    inhomogeneous_conv,
    merge_windows,
    pad_to_multiple,
    padding_bias,
    relative_position_index,
    residual,
    split_windows,
)


@pytest.mark.parametrize("split", ["local", "dilated"])
@pytest.mark.parametrize("size", [(6, 9), (3, 3), (12, 3)])
def test_merging_undoes_splitting(split, size):
    x = torch.randn(2, 8, *size)
    windows = split_windows(x, 3, split, num_heads=2)
    assert windows.shape == (1, 2 * size[0] * size[1] // 9, 2, 9, 4)
    assert torch.equal(merge_windows(windows[0], size, 3, split), x)


def test_which_tokens_share_a_window():
    height, width, ws = 6, 9, 3
    numbers = torch.arange(height * width, dtype=torch.float).view(1, 1, height, width)
    hh, ww = height // ws, width // ws
    for split, window_of in {
        "local": lambda y, x: (y // ws) * ww + x // ws,
        "dilated": lambda y, x: (y % hh) * ww + x % ww,
    }.items():
        windows = split_windows(numbers, ws, split)[0, :, 0, :, 0]
        for y in range(height):
            for x in range(width):
                assert y * width + x in windows[window_of(y, x)].tolist(), (split, y, x)


def test_padding_is_only_added_where_needed():
    x = torch.randn(1, 2, 6, 9)
    assert pad_to_multiple(x, 3) is x
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 2, 8, 12)
    assert torch.equal(padded[..., :6, :9], x)
    assert padded.sum() == pytest.approx(x.sum().item(), rel=1e-5)


@pytest.mark.parametrize("split", ["local", "dilated"])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 3), (8, 20)])
def test_every_window_has_a_real_token(split, size):
    bias = padding_bias(torch.zeros(1, 1, *size), 3, split)
    assert (bias == 0).any(-1).all()
    assert (bias == 0).sum() == size[0] * size[1]


def test_relative_position_index_counts_offsets():
    ws = 3
    index = relative_position_index(ws)
    for q in range(ws * ws):
        for k in range(ws * ws):
            dy, dx = q // ws - k // ws, q % ws - k % ws
            assert index[q, k] == (dy + ws - 1) * (2 * ws - 1) + dx + ws - 1


def attention_by_loops(mixer: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Window attention from its definition: for each token, over the real tokens of its window."""
    ws, heads = mixer.window_size, mixer.num_heads
    batch, channels, height, width = x.shape
    hh, ww = -(-height // ws), -(-width // ws)
    qkv = mixer.qkv(x).view(batch, 3, heads, channels // heads, height, width)
    out = torch.zeros_like(qkv[:, 0])

    def place(y: int, x: int) -> tuple[tuple[int, int], tuple[int, int]]:
        if mixer.split == "local":
            return (y // ws, x // ws), (y % ws, x % ws)
        return (y % hh, x % ww), (y // hh, x // ww)

    tokens = [(y, x) for y in range(height) for x in range(width)]
    for y, x_ in tokens:
        window, inside = place(y, x_)
        mates = [t for t in tokens if place(*t)[0] == window]
        keys = torch.stack([qkv[:, 1, :, :, ky, kx] for ky, kx in mates], dim=-1)  # B, heads, d, keys
        values = torch.stack([qkv[:, 2, :, :, ky, kx] for ky, kx in mates], dim=-1)
        logits = (qkv[:, 0, :, :, y, x_, None] * keys).sum(2) * (channels // heads) ** -0.5
        if mixer.relative_position_bias_table is not None:
            rows = [
                (inside[0] - place(*m)[1][0] + ws - 1) * (2 * ws - 1) + inside[1] - place(*m)[1][1] + ws - 1
                for m in mates
            ]
            logits = logits + mixer.relative_position_bias_table[rows].T
        out[..., y, x_] = (logits.softmax(-1)[:, :, None] * values).sum(-1)
    out = out.reshape(batch, channels, height, width)
    if hasattr(mixer, "gaze"):
        value_map = qkv[:, 2].reshape(batch, channels, height, width)
        out = out + gaze_by_loops(value_map, mixer.gaze.weight, mixer.gaze.bias)
    return mixer.proj(out)


def gaze_by_loops(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A depth-wise convolution from its definition."""
    height, width = values.shape[-2:]
    k = weight.shape[-1]
    out = bias[None, :, None, None].expand_as(values).clone()
    for y in range(height):
        for x in range(width):
            for i in range(k):
                for j in range(k):
                    sy, sx = y + i - k // 2, x + j - k // 2
                    if 0 <= sy < height and 0 <= sx < width:
                        out[:, :, y, x] += weight[:, 0, i, j] * values[:, :, sy, sx]
    return out


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (2, 4)])
@pytest.mark.parametrize("split", ["local", "dilated"])
def test_window_attention_is_its_definition(split, size):
    mixer = WindowAttention(8, 2, window_size=3, split=split, qkv_bias=True).double().eval()
    torch.nn.init.normal_(mixer.relative_position_bias_table)
    torch.nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), attention_by_loops(mixer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_glance_and_gaze_is_its_definition(kernel, size):
    from localvit_det.backbones.gg_transformer import GlanceGazeAttention

    mixer = GlanceGazeAttention(8, 2, window_size=3, gaze_kernel=kernel, qkv_bias=True).double().eval()
    torch.nn.init.normal_(mixer.qkv.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), attention_by_loops(mixer, x), rtol=1e-6, atol=1e-6)


def unfolded(x: torch.Tensor, kernels: torch.Tensor, k: int) -> torch.Tensor:
    """The convolution with a kernel at each position, by unfolding."""
    batch, channels, height, width = x.shape
    groups = kernels.shape[1] // k**2
    patches = F.unfold(x, k, padding=k // 2).view(batch, groups, channels // groups, k**2, height, width)
    return (patches * kernels.view(batch, groups, 1, k**2, height, width)).sum(3).view_as(x)


@pytest.mark.parametrize(("channels", "groups", "k", "size"), [(6, 2, 3, (5, 4)), (4, 4, 7, (3, 9)), (6, 1, 5, (1, 1))])
def test_inhomogeneous_convolution_is_the_unfolded_sum(channels, groups, k, size):
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, groups * k * k, *size, dtype=torch.float64, requires_grad=True)
    ours, reference = inhomogeneous_conv(x, kernels, k), unfolded(x, kernels, k)
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(reference)
    for a, b in zip(
        torch.autograd.grad(ours, (x, kernels), weights),
        torch.autograd.grad(reference, (x, kernels), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_inhomogeneous_convolution_gradcheck():
    x = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(1, 2 * 9, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: inhomogeneous_conv(a, b, 3), (x, kernels))


def test_inhomogeneous_convolution_keeps_half_precision():
    x, kernels = torch.randn(1, 4, 6, 6), torch.randn(1, 2 * 49, 6, 6)
    half = inhomogeneous_conv(x.bfloat16(), kernels.bfloat16(), 7)
    assert half.dtype == torch.bfloat16
    error = (half.float() - inhomogeneous_conv(x, kernels, 7)).norm() / half.float().norm()
    assert error < 0.01


class TestCheapOutputs:
    def gradients(self, recompute: bool, norm: torch.nn.Module) -> list[torch.Tensor]:
        """Gradients of product(norm(x)), and the norm's statistics."""
        from contextlib import nullcontext

        from localvit_det.layers import cheap_outputs

        torch.manual_seed(0)
        product = torch.nn.Conv2d(8, 8, 1, bias=False)
        x = torch.randn(2, 8, 6, 6, requires_grad=True)
        with cheap_outputs() if recompute else nullcontext(lambda m, t: m(t)) as cheap:
            out = product(cheap(norm, x))
        return [*torch.autograd.grad(out.square().sum(), (x, product.weight)), *norm.buffers()]

    @pytest.mark.parametrize("make", [lambda: torch.nn.BatchNorm2d(8), torch.nn.GELU, torch.nn.ReLU6])
    def test_gradients_and_statistics_are_the_same(self, make):
        plain = self.gradients(False, make())
        lean = self.gradients(True, make())
        torch.testing.assert_close(lean, plain, rtol=1e-6, atol=1e-6)

    def test_output_is_not_kept(self):
        import weakref

        from localvit_det.layers import cheap_outputs

        product = torch.nn.Conv2d(8, 8, 1)
        x = torch.randn(2, 8, 6, 6, requires_grad=True)
        with cheap_outputs() as cheap:
            activated = cheap(torch.nn.ReLU6(), x)
            gone = weakref.ref(activated)
            out = product(activated)
        del activated
        assert gone() is None
        out.sum().backward()
        assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "act",
    [
        nn.Identity(),
        nn.ReLU(),
        nn.ReLU6(),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.LeakyReLU(),
        nn.Tanh(),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_packed_convolution_is_convolution_and_activation(act, bias):
    conv = nn.Conv2d(12, 20, 1, bias=bias)
    packed = PackedPointwise(conv, act)
    x = torch.randn(2, 12, 9, 11).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), act(conv(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(x[:1, :, 2:5]), act(conv(x[:1, :, 2:5])), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = packed(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), act(conv(x)), rtol=2e-2, atol=2e-2)


def test_packed_convolution_follows_its_weights():
    packed = PackedPointwise(nn.Conv2d(4, 6, 1))
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        packed(x)
        packed.load_state_dict(nn.Conv2d(4, 6, 1).state_dict())
        expected = F.conv2d(x, packed.weight, packed.bias)
        torch.testing.assert_close(packed(x), expected)
        torch.testing.assert_close(copy.deepcopy(packed)(x), expected)  # packed weights themselves cannot be copied
        torch.testing.assert_close(packed.double()(x.double()).float(), expected)


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("size", [(4, 5), (40, 13)])
def test_depthwise_convolution_has_the_gradients_of_convolution(kernel, size):
    ours = DepthwiseConv2d(6, kernel).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    out = ours(x)
    expected = F.conv2d(x, ours.weight, ours.bias, padding=kernel // 2, groups=6)
    torch.testing.assert_close(out, expected)
    seed = torch.randn_like(out)
    inputs = (x, ours.weight, ours.bias)
    found, wanted = (torch.autograd.grad(y, inputs, seed, create_graph=True) for y in (out, expected))
    torch.testing.assert_close(found, wanted)
    found, wanted = (torch.autograd.grad(sum(g.square().sum() for g in grads), inputs[:2]) for grads in (found, wanted))
    torch.testing.assert_close(found, wanted)


def test_depthwise_convolution_gradcheck():
    ours = DepthwiseConv2d(2, 5).double()
    x = torch.randn(2, 2, 18, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: ours(x), (x, ours.weight, ours.bias))


def test_residual_drops_images_and_scales_the_rest():
    drop_path = DropPath(0.25).train()
    x, branch = torch.randn(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    added = residual(x, nn.Identity(), (branch,), POINTWISE, drop_path) - x
    assert set(added.flatten().mul(3).round().tolist()) == {0.0, 4.0}  # nothing, or 1 / (1 - 0.25)
    assert abs(added.mean() - 1) < 0.05
    torch.testing.assert_close(residual(x, nn.Identity(), (branch,), POINTWISE, drop_path.eval()), x + branch)
