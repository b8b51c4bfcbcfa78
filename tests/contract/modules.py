"""Hooks, adapters, parametrizations and transforms of `torch.func`: modules are called, and called once."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from .cases import MakeNet, NotApplicable, case, image, maps, total, with_options

LAYERS = (nn.Conv2d, nn.Linear)


class Adapter(nn.Module):
    """A layer and a correction, as LoRA has it, of each position, which no norm takes away; calls its layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        channels = -1 if isinstance(self.base, nn.Linear) else 1
        pattern = torch.arange(out.shape[channels], dtype=out.dtype).sin()
        pattern = pattern if channels == -1 else pattern[:, None, None]
        return out + self.shift * pattern * (3 * out).sin()


def replace_layers(net: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    """Put something in place of each layer; return all that were put."""
    found = [(m, n, c) for m in net.modules() for n, c in m.named_children() if isinstance(c, LAYERS)]
    return [setattr(parent, name, new := wrap(child)) or new for parent, name, child in found]


@case
def hooks_hear_each_call_once(make_net: MakeNet) -> None:
    """Forward hooks on all modules fire once a call, also where backward follows, and keep what they saw."""
    net = make_net()
    for training in (True, False):
        net.train(training)
        seen, calls, back = [], [], set()

        def listen(name: str, module: nn.Module, _: object, out: object, seen=seen, calls=calls) -> None:
            calls.append(name)
            if isinstance(out, Tensor):
                seen.append((name, out, out.detach().clone()))

        handles = [m.register_forward_hook(partial(listen, name)) for name, m in net.named_modules()]
        loss = total(maps(net, image()))
        count = len(calls)
        loss.backward()
        assert len(calls) == count
        with_parameters = {n for n, m in net.named_modules() if list(m.parameters(recurse=False))}
        assert with_parameters <= set(calls)
        changed = [name for name, out, kept in seen if not torch.equal(out, kept)]
        assert not changed
        for handle in handles:
            handle.remove()
        leaves = [(n, m) for n, m in net.named_modules() if n in with_parameters and not list(m.children())]
        handles = [m.register_full_backward_hook(lambda *_, n=n, b=back: b.add(n)) for n, m in leaves]
        total(maps(net, image())).backward()
        assert back == {n for n, _ in leaves}
        for handle in handles:
            handle.remove()


@case
def second_backward(make_net: MakeNet) -> None:
    """A second backward pass after `retain_graph=True` gives the same gradients, also of checkpointed blocks"""
    for options in ({}, {"with_cp": True}, {"recompute_activations": False}):
        try:
            net = with_options(make_net, **options).train()
        except NotApplicable:
            continue
        loss = total(maps(net, image()))
        gradients = [torch.autograd.grad(loss, list(net.parameters()), retain_graph=True) for _ in range(2)]
        torch.testing.assert_close(*gradients, rtol=0, atol=0)


@case
def adapters_have_effect(make_net: MakeNet) -> None:
    """A correction on any layer changes the outputs: its parameter gets a gradient."""
    for training in (False, True):
        net = make_net().train(training)
        adapters = replace_layers(net, Adapter)
        assert len(adapters) > 5
        total(maps(net, image())).backward()
        assert all(a.shift.grad is not None and a.shift.grad.abs() > 0 for a in adapters)
    with torch.no_grad():  # where nothing is recorded, networks take other ways
        net.eval()
        small = image(1)
        before = net(small)
        kinds = {name.rpartition(".")[2]: m for name, m in net.named_modules() if isinstance(m, Adapter)}
        for adapter in kinds.values():
            adapter.shift.fill_(1.0)
            after = net(small)
            adapter.shift.fill_(0.0)
            assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@case
def older_weight_norm_trains(make_net: MakeNet) -> None:
    """`torch.nn.utils.weight_norm`, which is a hook, computes each weight anew in each step."""
    net = make_net().train()
    layers = replace_layers(net, lambda layer: torch.nn.utils.weight_norm(layer))
    for _ in range(2):
        net.zero_grad()
        total(maps(net, image())).backward()
    assert all(layer.weight_g.grad is not None for layer in layers)
    net.eval()
    with torch.no_grad():
        for layer in layers:
            layer.weight_g.mul_(1.5)
        after = net(image())
        for layer in layers:
            torch.nn.utils.remove_weight_norm(layer)
        expected = net(image())
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


@case
def torch_func(make_net: MakeNet) -> None:
    """`torch.func`: grad, jacrev and vmap give what autograd and batches give"""
    transform(make_net().eval())


@case
def torch_func_fused(make_net: MakeNet) -> None:
    """The same after `fuse()`"""
    transform(fused(make_net().eval()))


def fusible(net: nn.Module) -> nn.Module:
    """The network, where it has a `fuse()`."""
    if not hasattr(net, "fuse"):
        raise NotApplicable("no fuse()")
    return net


def fused(net: nn.Module) -> nn.Module:
    return fusible(net).fuse()


def transform(net: nn.Module) -> None:
    net = net.double()
    x = image()[..., :32, :36].double()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return sum(m.square().mean() for m in functional_call(net, parameters, (x,)))

    found = grad(loss)(parameters, x)
    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()), allow_unused=True)
    for (name, value), other in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value, torch.zeros_like(value) if other is None else other, msg=name)
    small = x[:1]
    rows = jacrev(lambda x: net(x)[-1].flatten()[:2])(small)
    wanted = small.clone().requires_grad_()
    for row, output in zip(rows, net(wanted)[-1].flatten()[:2], strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(output, wanted, retain_graph=True)[0])
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            one_by_one = vmap(lambda one: net(one[None]))(x)
            torch.testing.assert_close([m[:, 0] for m in one_by_one], list(net(x)))


@case
def forward_mode(make_net: MakeNet) -> None:
    """`torch.func.jvp`: the derivative along a direction is what backward gives"""
    net = make_net().double().eval()
    x, direction = (image(1, seed)[..., :32, :32].double() for seed in (5, 6))
    _, along = jvp(lambda x: tuple(maps(net, x)), (x,), (direction,))
    (gradient,) = torch.autograd.grad(total(maps(net, x.requires_grad_())), x)
    torch.testing.assert_close(total(along), (gradient * direction).sum())


@case
def wrapped_layers_are_not_fused(make_net: MakeNet) -> None:
    """`fuse()` leaves adapters, parametrizations and subclasses of layers alone"""
    from torch.ao.nn.qat import Conv2d as QuantizedConv2d
    from torch.ao.quantization import default_qat_qconfig

    def quantize(layer: nn.Module) -> nn.Module:
        layer.qconfig = default_qat_qconfig
        return QuantizedConv2d.from_float(layer) if type(layer) is nn.Conv2d else layer

    norms = torch.nn.utils
    kinds = {
        "adapter": shifted,
        "subclass": subclassed,
        "weight_norm": norms.weight_norm,
        "spectral_norm": norms.spectral_norm,
        "parametrized": norms.parametrizations.weight_norm,
        "parametrized spectral": norms.parametrizations.spectral_norm,
        "quantized": quantize,
    }
    for name, wrap in kinds.items():
        net = fusible(make_net()).double().eval()
        replace_layers(net, wrap)
        net.double().eval()
        x = image(1)[..., :33, :40].double()
        with torch.no_grad():
            net(x)  # observers set their ranges
            net.apply(lambda m: m.disable_observer() if hasattr(m, "disable_observer") else None)
            before = net(x)
            after = fused(net)(x)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def shifted(layer: nn.Module) -> nn.Module:
    adapter = Adapter(layer)
    adapter.shift.data.fill_(0.1)
    return adapter


class Doubled(nn.Conv2d):
    """A convolution that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


def subclassed(layer: nn.Module) -> nn.Module:
    if type(layer) is nn.Conv2d:
        layer.__class__ = Doubled
    return layer


@case
def hooks_stay_when_fused(make_net: MakeNet) -> None:
    """Hooks registered before `fuse()` fire after it, on the whole feature map"""
    net, heard, x = fusible(make_net()).eval(), [], image(1)[..., :32, :32]
    names = [name for name, m in net.named_modules() if list(m.parameters(recurse=False)) and "blocks" in name]
    for name in names[::7]:
        net.get_submodule(name).register_forward_hook(lambda module, x, out, name=name: heard.append((name, out)))
    with torch.no_grad():
        expected, before = list(net(x)), heard.copy()
        heard.clear()
        found = fused(net)(x)
    torch.testing.assert_close(list(found), expected, rtol=1e-3, atol=1e-3)
    assert before
    assert [name for name, _ in heard] == [name for name, _ in before]
    for (name, out), (_, wanted) in zip(heard, before, strict=True):
        torch.testing.assert_close(out, wanted, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@case
def written_weights_are_used_when_fused(make_net: MakeNet) -> None:
    """After `fuse()` and a first use, weights written by `p.data`, numpy and in inference mode are used"""
    x = image(1)

    def scale_data(p: Tensor) -> None:
        p.data.neg_()

    def scale_array(p: Tensor) -> None:
        p.detach().numpy()[...] *= 1.5

    def scale_one(p: Tensor) -> None:
        p.data[(0,) * p.dim()] += 1.0

    for write in (scale_data, scale_array, scale_one):
        net = fused(make_net().eval())
        with torch.no_grad():
            first = net(x)
            for p in net.parameters():
                write(p)
            torch.testing.assert_close(net(x), copy.deepcopy(net)(x), rtol=0, atol=0)
            assert not any(torch.equal(a, b) for a, b in zip(net(x), first, strict=True))
    with torch.inference_mode():
        net = fused(make_net().eval())
        for module in net.modules():
            for name, p in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(p.clone(), requires_grad=False))
        net(x)
        for p in net.parameters():
            p.mul_(1.5)
        torch.testing.assert_close(net(x), copy.deepcopy(net)(x), rtol=0, atol=0)
