"""What is particular to DWNet: convolutions that generate kernels are called as modules."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from localvit_det.backbones import base
from localvit_det.fused import fused_copy


class Adapter(nn.Module):
    """What adapter libraries put around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


@pytest.fixture(params=["DynamicDWNet", "IDynamicDWNet"])
def net(request):
    torch.manual_seed(0)
    arch = {"embed_dims": 32, "depths": (1, 1), "drop_path_rate": 0.0}
    return MODELS.build({"type": request.param, "arch": arch, "out_indices": (0, 1)}).eval()


@pytest.mark.parametrize("form", ["training", "eval", "inference", "fused"])
def test_an_adapter_around_the_generator_takes_part(net, form):
    x = torch.randn(2, 3, 40, 36)
    wrapped, merged = net, copy.deepcopy(net)
    for ours, theirs in zip(wrapped.stages, merged.stages, strict=True):
        conv, plain = ours.blocks[0].mixer.conv, theirs.blocks[0].mixer.conv.generate
        conv.generate = adapter = Adapter(conv.generate)
        nn.init.normal_(adapter.up.weight)
        # The same as one convolution.
        plain.weight.data += (adapter.up.weight.flatten(1) @ adapter.down.weight.flatten(1))[..., None, None].detach()
    with torch.set_grad_enabled(form in ("training", "eval")):
        if form == "training":
            wrapped.train(), merged.train()
        if form == "fused":
            wrapped, merged = fused_copy(wrapped), fused_copy(merged)
        for ours, theirs in zip(wrapped(x), merged(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if form == "training":
        sum(out.square().mean() for out in wrapped(x)).backward()
        assert all(p.grad.abs().sum() > 0 for name, p in wrapped.named_parameters() if ".up." in name)


@pytest.mark.parametrize("fuse", [False, True])
def test_hooks_on_the_generator_fire(net, fuse):
    net = fused_copy(net) if fuse else net
    calls = []
    for name, module in net.named_modules():
        if name.endswith("generate"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == 2  # one in each stage


def test_gradients_are_the_same_from_images_in_either_memory_format(net, monkeypatch):
    """In float64, where 1e-14 is rounding; float32 differed by 1e-6, which could have been a fault."""
    x, grads = torch.rand(2, 3, 61, 100, dtype=torch.float64), []
    net.double().train()
    for convert in (base.channels_last, Tensor.contiguous):
        monkeypatch.setattr(base, "channels_last", convert)
        outputs = net(x)
        generator = torch.Generator().manual_seed(0)
        loss = sum((out * torch.rand(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outputs)
        grads.append(torch.autograd.grad(loss, [*net.parameters()]))
    largest = max(grad.norm() for grad in grads[0])
    for last, contiguous in zip(*grads, strict=True):
        assert (last - contiguous).norm() <= 1e-12 * max(last.norm(), 1e-3 * largest)
