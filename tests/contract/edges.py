"""Empty batches, fewer feature maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
        if not hasattr(net, "feature_info"):
            raise NotApplicable("no feature_info")
        check_modules(net, maps(net, image()))


@case
def feature_modules_without_norms(make_net: MakeNet) -> None:
    """The same without output norms, and for stages that are not returned"""
    net = with_options(make_net, out_norm_cfg=None, out_indices=(0, 1, 2, 3)).eval()
    features = maps(net, image())
    check_modules(net, features)
    net = with_options(make_net, out_norm_cfg=None, out_indices=(1, 3))
    net.load_state_dict(net.state_dict())
    check_modules(net.eval(), [*maps(net, image())], (1, 3))


def check_modules(net: nn.Module, features: list[Tensor], stages: Sequence[int] | None = None) -> None:
    """Compare feature maps with what hooks on the modules of these stages see, and with the declared sizes."""
    info, found, modules = net.feature_info, {}, dict(net.named_modules())
    for name in info.module_name(stages):
        module = (
            modules.get(name) or modules[name.replace(".", "_")]
        )  # timm's, taken out of the network, have other names
        module.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    maps(net, image())
    rows = zip(info.module_name(stages), info.channels(stages), info.reduction(stages), features, strict=True)
    for name, channels, stride, feature in rows:
        side = 64 // stride
        assert found[name].shape == feature.shape
        assert feature.shape in ((2, channels, side, side), (2, side, side, channels))  # the last as timm's Swin
        torch.testing.assert_close(found[name], feature, rtol=0, atol=0)
