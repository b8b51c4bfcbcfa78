"""State dicts, parameters and gradients as tools take them."""

import tempfile
from pathlib import Path

import torch
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from .cases import MakeNet, NotApplicable, case, image, maps, same, total


@case
def safetensors(make_net: MakeNet) -> None:
    """`safetensors.torch.save_file(net.state_dict(), …)`"""
    try:
        from safetensors.torch import load_file, save_file
    except ModuleNotFoundError as error:
        raise NotApplicable("safetensors is not installed") from error
    net, other = make_net(), make_net()
    with tempfile.TemporaryDirectory() as folder:
        save_file(net.state_dict(), Path(folder) / "net.safetensors")
        other.load_state_dict(load_file(Path(folder) / "net.safetensors"))
    same(other, net)


@case
def contiguous(make_net: MakeNet) -> None:
    """Parameters, buffers and gradients are contiguous, in the usual layout"""
    net = make_net()
    total(maps(net, image())).backward()
    tensors = {
        **net.state_dict(),
        **{f"{name}.grad": p.grad for name, p in net.named_parameters() if p.grad is not None},
    }
    assert not [name for name, tensor in tensors.items() if not tensor.is_contiguous()]


@case
def vector(make_net: MakeNet) -> None:
    """`parameters_to_vector` and back"""
    net, other = make_net(), make_net()
    other.load_state_dict(net.state_dict())
    vector_to_parameters(parameters_to_vector(net.parameters()).clone(), other.parameters())
    with torch.no_grad():  # weights that begin at odd places of memory may pass other kernels
        torch.testing.assert_close(maps(other.eval(), image()), maps(net.eval(), image()), rtol=1e-4, atol=1e-5)


@case
def older_layout_assigned(make_net: MakeNet) -> None:
    """A state dict of channels-last weights and `load_state_dict(…, assign=True)`: then as above"""
    net, other = make_net(), make_net()
    form = torch.channels_last
    old = {n: t.to(memory_format=form) if t.dim() == 4 else t for n, t in net.state_dict().items()}
    assert not all(t.is_contiguous() for t in old.values())
    other.load_state_dict(old, assign=True)
    assert not [name for name, tensor in other.state_dict().items() if not tensor.is_contiguous()]
    parameters_to_vector(other.parameters())
    with torch.no_grad():  # 1×1 weights have two layouts at once, and may pass other kernels
        torch.testing.assert_close(maps(other.eval(), image()), maps(net.eval(), image()), rtol=1e-4, atol=1e-5)


@case
def lbfgs(make_net: MakeNet) -> None:
    """`torch.optim.LBFGS` lowers a loss"""
    net = make_net().eval()  # without chance
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1e-3, max_iter=2)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.stack([m.square().mean() for m in maps(net, image(1))]).sum()
        value.backward()
        return value

    before = optimizer.step(loss)
    assert loss() < before


@case
def pruning(make_net: MakeNet) -> None:
    """`prune.l1_unstructured` and `prune.global_unstructured` of all convolutions and dense layers"""
    for whole in (False, True):
        net = make_net().eval()
        before = maps(net, image(1))
        kinds = (torch.nn.Conv2d, torch.nn.Linear)
        layers = [(module, "weight") for module in net.modules() if isinstance(module, kinds)]
        if whole:
            prune.global_unstructured(layers, prune.L1Unstructured, amount=0.5)
        else:
            for layer, name in layers:
                prune.l1_unstructured(layer, name, amount=0.5)
        zeros = sum(int((layer.weight == 0).sum()) for layer, _ in layers)
        assert abs(zeros / sum(layer.weight.numel() for layer, _ in layers) - 0.5) < 0.01
        assert not torch.equal(maps(net, image(1))[-1], before[-1])
