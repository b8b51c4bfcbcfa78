"""Empty batches, fewer feature maps."""

import torch
from torch import nn

from .cases import MakeNet, NotApplicable, case, image, maps, total, with_options


def run_empty(net: nn.Module) -> None:
    """Forward, and backward in train mode, of a batch of no image."""
    sizes = [m.shape[1:] for m in maps(net, image())]
    net.zero_grad()
    features = maps(net, image()[:0])
    assert [m.shape for m in features] == [(0, *size) for size in sizes]
    if net.training:
        total(features).backward()
        assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)


@case
def empty_batch(make_net: MakeNet) -> None:
    """A batch of 0: eval, without gradients, training"""
    run_empty(make_net().train())
    run_empty(make_net().eval())
    with torch.no_grad():
        run_empty(make_net().eval())


@case
def empty_batch_bf16(make_net: MakeNet) -> None:
    """A batch of 0 under autocast in bf16: eval and training"""
    with torch.autocast("cpu", torch.bfloat16):
        run_empty(make_net().train())
        with torch.no_grad():
            run_empty(make_net().eval())


@case
def empty_batch_fused(make_net: MakeNet) -> None:
    """A batch of 0 after `fuse()`, also in bf16"""
    net = make_net()
    if not hasattr(net, "fuse"):
        raise NotApplicable("no fuse()")
    with torch.no_grad():
        run_empty(net.fuse())
        with torch.autocast("cpu", torch.bfloat16):
            run_empty(net)


@case
def empty_batch_checkpointed(make_net: MakeNet) -> None:
    """A batch of 0 with checkpointed blocks"""
    run_empty(with_options(make_net, with_cp=True).train())


@case
def empty_batch_kept(make_net: MakeNet) -> None:
    """A batch of 0 with all activations kept"""
    run_empty(with_options(make_net, recompute_activations=False).train())


@case
def fewer_stages(make_net: MakeNet) -> None:
    """`out_indices=(0, 1, 2)`: every parameter gets a gradient, as DDP wants it"""
    net = make_net(out_indices=(0, 1, 2)).train()
    features = maps(net, image())
    assert len(features) == 3
    total(features).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


@case
def feature_modules(make_net: MakeNet) -> None:
    """Modules in `feature_info.module_name()` return the feature maps that are listed"""
    for out_indices in ((0, 1, 2, 3), (1, 2)):
        net = make_net(out_indices=out_indices).eval()
        info = getattr(net, "feature_info", None)
        if info is None:
            raise NotApplicable("no feature_info")
        names, found = info.module_name(), {}
        for name in names:
            net.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name, feature, channels, stride in zip(
            names, maps(net, image()), info.channels(), info.reduction(), strict=True
        ):
            assert found[name].shape == feature.shape == (2, channels, 64 // stride, 64 // stride)
            torch.testing.assert_close(found[name], feature, rtol=0, atol=0)
