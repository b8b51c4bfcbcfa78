"""Training steps that are compiled, or on a GPU, give the same as eager ones on a CPU."""

import copy

import pytest
import torch
from families import FAMILIES, build_short


def step(net, image, run=None):
    """Feature maps, and gradients of a fixed function of them."""
    net.zero_grad()
    maps = (net if run is None else run)(image)  # a compiled network has no truth value
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.rand(m.shape, generator=generator).to(m)).sum() for m in maps).backward()
    return [m.detach().cpu() for m in maps], {name: p.grad.cpu() for name, p in net.named_parameters()}


def check_same(found, expected, rtol):
    for one, other in zip((*found[0], *found[1].values()), (*expected[0], *expected[1].values()), strict=True):
        assert (one - other).norm() <= rtol * other.norm() + 1e-6, (one - other).norm() / other.norm()


def pair(family):
    net = build_short(family).train()
    return net, copy.deepcopy(net), torch.rand(2, 3, 32, 40)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_training(family):
    # In float64: before a BatchNorm gradients of biases are zero but for rounding.
    net, compiled, image = (one.double() for one in pair(family))
    torch._dynamo.reset()
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)  # a graph break would raise
    for _ in range(2):  # of the second the statistics of BatchNorms are others
        check_same(step(compiled, image, run), step(net, image), 1e-4)
    for one, other in zip(net.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("execution", ["eager", "compiled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_on_the_gpu(family, execution):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    net, on_gpu, image = pair(family)
    on_gpu.cuda()
    run = torch.compile(on_gpu) if execution == "compiled" else None
    check_same(step(on_gpu, image.cuda(), run), step(net, image), 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_with_a_scaler_on_the_gpu(family):
    net, on_gpu, image = pair(family)
    on_gpu.cuda()
    optimizer, scaler = torch.optim.SGD(on_gpu.parameters(), lr=0.0), torch.amp.GradScaler("cuda", init_scale=2**10)
    with torch.autocast("cuda", torch.float16):
        maps = on_gpu(image.cuda())
    scaler.scale(sum(m.float().square().mean() for m in maps)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2**10  # else something overflowed
    for one, other in zip(maps, net(image), strict=True):
        assert (one.cpu().float() - other).norm() <= 2e-2 * other.norm()
