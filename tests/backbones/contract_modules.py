"""What PyTorch users do to any network: listen, adapt, reparametrize, differentiate. Each case takes a factory."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

Factory = Callable[[], nn.Module]
LAYERS = (nn.Conv2d, nn.Linear)


def image(count: int = 2, side: int = 22) -> Tensor:
    return torch.randn(count, 3, side, side + 5, generator=torch.Generator().manual_seed(1))


def total(maps: tuple[Tensor, ...]) -> Tensor:
    return sum(m.square().mean() for m in maps)


class Adapter(nn.Module):
    """A layer and a correction, as LoRA has it, by a pattern that no norm takes away; calls its layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out + self.shift * torch.arange(out.numel(), dtype=out.dtype).sin().view(out.shape)


def replace_layers(net: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    """Put something in place of each layer; return all that were put."""
    found = [(m, n, c) for m in net.modules() for n, c in m.named_children() if isinstance(c, LAYERS)]
    return [setattr(parent, name, new := wrap(child)) or new for parent, name, child in found]


def hooks_hear_each_call_once(factory: Factory) -> None:
    """Forward hooks on all modules fire once a call, also where backward follows, and keep what they saw."""
    net = factory()
    for training in (True, False):
        net.train(training)
        seen, calls, back = [], [], set()

        def listen(name: str, module: nn.Module, _: object, out: object, seen=seen, calls=calls) -> None:
            calls.append(name)
            if isinstance(out, Tensor):
                seen.append((name, out, out.detach().clone()))

        handles = [m.register_forward_hook(partial(listen, name)) for name, m in net.named_modules()]
        loss = total(net(image()))
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
        total(net(image())).backward()
        assert back == {n for n, _ in leaves}
        for handle in handles:
            handle.remove()


def adapters_have_effect(factory: Factory) -> None:
    """A correction on any layer changes the outputs: its parameter gets a gradient."""
    for training in (False, True):
        net = factory().train(training)
        adapters = replace_layers(net, Adapter)
        assert len(adapters) > 5
        total(net(image())).backward()
        assert all(a.shift.grad is not None and a.shift.grad.abs() > 0 for a in adapters)
    with torch.no_grad():  # where nothing is recorded, networks take other ways
        net.eval()
        before = net(image())
        for adapter in adapters:
            adapter.shift.fill_(1.0)
            after = net(image())
            adapter.shift.fill_(0.0)
            assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def older_weight_norm_trains(factory: Factory) -> None:
    """`torch.nn.utils.weight_norm`, which is a hook, computes each weight anew in each step."""
    net = factory().train()
    layers = replace_layers(net, lambda layer: torch.nn.utils.weight_norm(layer))
    for _ in range(2):
        net.zero_grad()
        total(net(image())).backward()
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


def transforms_of_torch_func(factory: Factory) -> None:
    """`grad`, `jacrev` and `vmap` give what autograd and batches give."""
    net = factory().double()
    x = image().double()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return total(functional_call(net, parameters, (x,)))

    found = grad(loss)(parameters, x)
    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()), allow_unused=True)
    for (name, value), other in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value, torch.zeros_like(value) if other is None else other, msg=name)
    small = x[:1, :, :6, :6]
    rows = jacrev(lambda x: net(x)[-1].flatten()[:2])(small)
    wanted = small.clone().requires_grad_()
    for row, output in zip(rows, net(wanted)[-1].flatten()[:2], strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(output, wanted, retain_graph=True)[0])
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            one_by_one = vmap(lambda one: net(one[None]))(x)
            torch.testing.assert_close([m[:, 0] for m in one_by_one], list(net(x)))


PLAIN = (hooks_hear_each_call_once, adapters_have_effect, older_weight_norm_trains)
BOTH = (transforms_of_torch_func,)
