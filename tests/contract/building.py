"""Ways to build a network without its numbers, and to give it some afterwards."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from .cases import MakeNet, case, image, maps, same


def on_meta(make_net: MakeNet) -> nn.Module:
    with torch.device("meta"):
        return make_net()


def scramble(net: nn.Module) -> nn.Module:
    """Fill memory as an allocator may: what holds no numbers yet gets wrong ones instead of zeros."""
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(77)
    return net


@case
def meta_device(make_net: MakeNet) -> None:
    """Built on the meta device, then `load_state_dict(…, assign=True)`"""
    net = make_net()
    other = on_meta(make_net)
    other.load_state_dict(net.state_dict(), assign=True)
    same(other, net)


@case
def to_empty(make_net: MakeNet) -> None:
    """`to_empty()`, then `load_state_dict`"""
    net = make_net()
    other = on_meta(make_net).to_empty(device="cpu")
    other.load_state_dict(net.state_dict())
    same(other, net)


@case
def to_empty_filled(make_net: MakeNet) -> None:
    """`to_empty()`, then parameters and buffers of the state dict filled one by one"""
    net = make_net()
    other = on_meta(make_net).to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in other.state_dict().items():
            tensor.copy_(net.state_dict()[name])
    same(other, net)


@case
def materialized(make_net: MakeNet) -> None:
    """As FSDP does: `to_empty` and `reset_parameters` of each module that owns tensors"""
    net = make_net()
    other = on_meta(make_net)
    for module in other.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            scramble(module.to_empty(device="cpu", recurse=False))
            module.reset_parameters()
    assert not [name for name, p in other.named_parameters() if p.numel() > 1 and (p == 77).any()]
    assert all(m.isfinite().all() for m in maps(other.eval(), image()))
    other.load_state_dict(net.state_dict())
    same(other, net)


@case
def fake_tensors(make_net: MakeNet) -> None:
    """Built and run under `FakeTensorMode`, also by a network that was built outside of it"""
    sizes = [m.shape for m in maps(make_net().eval(), image())]
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = maps(make_net().eval(), torch.empty(image().shape))
        assert all(isinstance(m, FakeTensor) for m in found)
        assert [m.shape for m in found] == sizes
    with FakeTensorMode() as mode:
        net = make_net().eval()
        net.load_state_dict({name: torch.empty_like(t) for name, t in net.state_dict().items()}, assign=True)
        assert [m.shape for m in maps(net, mode.from_tensor(image()))] == sizes


@case
def skip_init(make_net: MakeNet) -> None:
    """`torch.nn.utils.skip_init` of the whole network: built by `device="meta"`, then `load_state_dict`"""
    net = make_net()

    class Net(nn.Module):  # it asks for a class, and a factory is none
        def __init__(self, device: str) -> None:
            super().__init__()
            self.net = make_net(device=device)
            assert {t.device.type for t in (*self.parameters(), *self.buffers())} == {device}

    other = torch.nn.utils.skip_init(Net).net
    other.load_state_dict(net.state_dict())
    same(other, net)
