"""MMDetection's ResNet for inference on a CPU: BatchNorms folded, weights packed, channels-last."""

from __future__ import annotations

from mmdet.models.backbones import ResNet
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ..layers import Fused, form_of
from ..ops import cpu_inference
from .folding import fuse_conv_bn
from .forms import form_like
from .packed_conv import can_pack, pack_conv


class FusedResidualBlock(Fused):
    """A residual block of a ResNet, basic or bottleneck.

    Args:
        block: The block; its norms must be BatchNorms.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        self.conv1 = _packed(block.conv1, block.norm1, nn.ReLU())
        last = isinstance(block, BasicBlock)
        self.conv2 = _packed(block.conv2, block.norm2, None if last else nn.ReLU())
        self.conv3 = nn.Identity() if last else _packed(block.conv3, block.norm3)
        self.downsample = None
        if block.downsample is not None:
            *before, conv, norm = block.downsample
            self.downsample = nn.Sequential(*before, _packed(conv, norm))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        identity = x if self.downsample is None else self.downsample(x)
        y = self.conv3(self.conv2(self.conv1(x)))
        return y.add_(identity).relu_() if cpu_inference(x) else (y + identity).relu()


class FusedResNet(ResNet):
    """A ResNet without norms."""


def _packed(conv: nn.Module, norm: nn.Module, act: nn.Module | None = None) -> nn.Module:
    return pack_conv(fuse_conv_bn(conv, norm)[0], act)


def _folds(conv: nn.Module, norm: nn.Module) -> bool:
    return can_pack(conv) and isinstance(fuse_conv_bn(conv, norm)[1], nn.Identity)


@form_of(BasicBlock)
@form_of(Bottleneck)
def fuse_residual_block(block: BasicBlock | Bottleneck) -> nn.Module:
    """The fused form of a block, or the block itself where it has other layers than convolutions and BatchNorms."""
    pairs = [(block.conv1, block.norm1), (block.conv2, block.norm2)]
    if isinstance(block, Bottleneck):
        pairs.append((block.conv3, block.norm3))
    if block.downsample is not None:
        pairs.append(tuple(block.downsample[-2:]))
    plain = not getattr(block, "with_plugins", False)
    return FusedResidualBlock(block) if plain and all(_folds(*pair) for pair in pairs) else block


@form_of(ResNet)
def fuse_resnet(net: ResNet) -> nn.Module:
    """The fused form of a ResNet."""
    form = form_like(net, FusedResNet)
    if not net.deep_stem and _folds(net.conv1, net.norm1):
        form.conv1 = _packed(net.conv1, net.norm1, nn.ReLU())
        setattr(form, net.norm1_name, nn.Identity())
    return form
