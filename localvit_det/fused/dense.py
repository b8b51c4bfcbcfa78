"""ResNet, FPN and dense heads of MMDetection for inference on a CPU, and the convolutions that they are made of."""

from __future__ import annotations

from typing import TypeGuard

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from mmdet.models.backbones import ResNet
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.necks import FPN
from mmdet.structures.bbox import cat_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import Fused, register_fused
from ..ops import cpu_inference, is_plain
from .detector import Variant, at_least_fp32
from .folding import fuse_conv_bn
from .packed import in_place, pack_conv

# MMCV's own classes differ in what they do with empty batches under PyTorch 1.4 only.
PLAIN_CONVS = (nn.Conv2d, wrappers.Conv2d)
PLAIN_LINEARS = (nn.Linear, wrappers.Linear)


def can_pack(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether :func:`pack_conv` takes this layer."""
    if not isinstance(conv, nn.Conv2d) or type(conv) not in PLAIN_CONVS or not is_plain(conv):
        return False
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_plain_linear(layer: nn.Module | None) -> bool:
    """Whether a layer is a dense one and nothing else."""
    return layer is not None and type(layer) in PLAIN_LINEARS and is_plain(layer)


class FusedConvModule(ConvModule):
    """A :class:`ConvModule` whose convolution brings norm and activation along, as far as that is exact.

    The original still answers where a caller leaves out norm or activation.
    """

    def __init__(self, module: ConvModule) -> None:
        nn.Module.__init__(self)
        self._original = (module,)  # in a tuple: no part of the state dict
        conv, norm, self.norm_name = module.conv, module.norm or nn.Identity(), None
        act = module.activate if module.with_activation else nn.Identity()
        conv, norm = fuse_conv_bn(conv, norm)
        whole = isinstance(norm, nn.Identity)
        self.conv = pack_conv(conv, act if whole else None)
        self.with_norm, self.with_activation = not whole, not whole
        if not whole:
            self.norm_name = module.norm_name
            self.add_module(self.norm_name, norm)
            self.activate = in_place(act)
        self.train(module.training)

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not (activate and norm):
            return self._original[0](x, activate, norm)
        x = self.conv(x)  # B, C', H', W'
        return self.activate(self.norm(x)) if self.with_norm else x


@register_fused(ConvModule)
def fuse_conv_module(module: ConvModule) -> nn.Module:
    """Fuse a :class:`ConvModule`; return the module itself where its parts are not the usual ones."""
    usual = module.order == ("conv", "norm", "act") and not module.with_explicit_padding
    return FusedConvModule(module) if usual and not module.with_spectral_norm and can_pack(module.conv) else module


class FusedResidualBlock(Fused):
    """A residual block of a ResNet, basic or bottleneck, whose norms are BatchNorms."""

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


def _packed(conv: nn.Conv2d, norm: nn.Module, act: nn.Module | None = None) -> nn.Module:
    return pack_conv(fuse_conv_bn(conv, norm)[0], act)


def _folds(conv: nn.Module, norm: nn.Module) -> bool:
    return can_pack(conv) and isinstance(fuse_conv_bn(conv, norm)[1], nn.Identity)


@register_fused(BasicBlock, Bottleneck)
def fuse_residual_block(block: BasicBlock | Bottleneck) -> nn.Module:
    """Fuse a block; return the block itself where it has other layers than convolutions and BatchNorms."""
    pairs = [(block.conv1, block.norm1), (block.conv2, block.norm2)]
    if isinstance(block, Bottleneck):
        pairs.append((block.conv3, block.norm3))
    if block.downsample is not None:
        pairs.append(tuple(block.downsample[-2:]))
    plain = not getattr(block, "with_plugins", False)
    return FusedResidualBlock(block) if plain and all(_folds(*pair) for pair in pairs) else block


@register_fused(ResNet)
class FusedResNet(Variant, ResNet):
    """A :class:`ResNet` without norms."""

    def __init__(self, net: ResNet) -> None:
        super().__init__(net)
        if not net.deep_stem and _folds(net.conv1, net.norm1):
            self.conv1 = _packed(net.conv1, net.norm1, nn.ReLU())
            setattr(self, net.norm1_name, nn.Identity())


@register_fused(FPN)
class FusedFPN(Variant, FPN):
    """An :class:`FPN` that adds coarse feature maps to fine ones in place, without making them larger first."""

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One feature map (B, C_i, H_i, W_i) per stage -> feature maps (B, C, H_i, W_i), and coarser ones."""
        if not cpu_inference(inputs[0]) or self.upsample_cfg != {"mode": "nearest"} or not self._own_laterals():
            return super().forward(inputs)
        laterals = [conv(inputs[i + self.start_level]) for i, conv in enumerate(self.lateral_convs)]
        for fine, coarse in zip(laterals[-2::-1], laterals[:0:-1], strict=True):
            _add_upsampled(fine, coarse)
        outs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=False)]
        return (*outs, *self._coarser(inputs, laterals, outs))

    def _own_laterals(self) -> bool:
        # What a hook or an identity returns may be in use elsewhere.
        return not any(conv._forward_hooks or isinstance(conv, nn.Identity) for conv in self.lateral_convs)

    def _coarser(self, inputs: tuple[Tensor, ...], laterals: list[Tensor], outs: list[Tensor]) -> list[Tensor]:
        coarser: list[Tensor] = []
        sources = {"on_input": inputs[self.backbone_end_level - 1], "on_lateral": laterals[-1], "on_output": outs[-1]}
        for i in range(self.num_outs - len(outs)):
            last = coarser[-1] if coarser else outs[-1]
            if not self.add_extra_convs:
                coarser.append(last[:, :, ::2, ::2])
                continue
            source = last if coarser else sources[self.add_extra_convs]
            if coarser and self.relu_before_extra_convs:
                source = source.relu()
            coarser.append(self.fpn_convs[len(outs) + i](source))
        return coarser


class FusedRPNHead(Variant, RPNHead):
    """An :class:`RPNHead` that sorts only the best of its hundreds of thousands of scores, which are sigmoids.

    Scores and deltas leave it in fp32, also under autocast: anchors take their type, and bfloat16 counts pixels in
    steps of eight at 1000.
    """

    def __init__(self, head: RPNHead) -> None:
        super().__init__(head)
        if isinstance(head.rpn_conv, nn.Conv2d):
            self.rpn_conv = pack_conv(head.rpn_conv, nn.ReLU())
        self.rpn_cls, self.rpn_reg = pack_conv(head.rpn_cls), pack_conv(head.rpn_reg)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A feature map (B, C, H, W) -> scores (B, A, H, W), deltas (B, 4A, H, W)."""
        if not cpu_inference(x):
            return super().forward_single(x)
        x = self.rpn_conv(x)  # its ReLU is inside
        return at_least_fp32(self.rpn_cls(x)), at_least_fp32(self.rpn_reg(x))

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        if not cpu_inference(cls_score_list[0]):  # a GPU sorts fast, and would be waited for
            return super()._predict_by_feat_single(
                cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, img_meta, cfg, rescale, with_nms
            )
        cfg = self.test_cfg if cfg is None else cfg
        nms_pre = cfg.get("nms_pre", -1)
        levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for level, (scores, deltas, priors) in enumerate(zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)):
            scores = scores.permute(1, 2, 0).flatten().sigmoid()  # A, H, W -> H·W·A
            deltas = deltas.permute(1, 2, 0).reshape(-1, self.bbox_coder.encode_size)  # 4A, H, W -> H·W·A, 4
            if 0 < nms_pre < len(scores):
                best = best_of(scores, nms_pre)
                scores, deltas, priors = scores[best], deltas[best], priors[best]
            levels.append((scores, deltas, priors, torch.full_like(scores, level, dtype=torch.long)))
        all_scores, all_deltas, all_priors, level_ids = zip(*levels, strict=True)
        boxes = self.bbox_coder.decode(cat_boxes(all_priors), torch.cat(all_deltas), max_shape=img_meta["img_shape"])
        results = InstanceData(bboxes=boxes, scores=torch.cat(all_scores), level_ids=torch.cat(level_ids))
        return self._bbox_post_process(results=results, cfg=cfg, rescale=rescale, img_meta=img_meta)


def best_of(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` largest of ``scores`` (N,), by descending score, equal ones in their order.

    That is what a stable sort of all would give.
    """
    least = torch.topk(scores, count, sorted=False).values.amin()
    candidates = (scores >= least).nonzero()[:, 0]
    return candidates[torch.sort(scores[candidates], descending=True, stable=True).indices[:count]]


def _add_upsampled(fine: Tensor, coarse: Tensor) -> None:
    """Add a feature map (B, C, h, w) to one of any size (B, C, H, W), in place, each cell to those nearest to it."""
    height, width = coarse.shape[2:]
    if (-(-fine.shape[2] // 2), -(-fine.shape[3] // 2)) != (height, width):
        fine += nn.functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        return
    for top in (0, 1):
        for left in (0, 1):
            part = fine[:, :, top::2, left::2]
            part += coarse[:, :, : part.shape[2], : part.shape[3]]


@register_fused(RPNHead)
def fuse_rpn_head(head: RPNHead) -> nn.Module:
    """Fuse an :class:`RPNHead`; return the head itself where its layers are not the usual ones."""
    layers = [head.rpn_cls, head.rpn_reg, *([head.rpn_conv] if isinstance(head.rpn_conv, nn.Conv2d) else [])]
    return FusedRPNHead(head) if head.use_sigmoid_cls and all(map(can_pack, layers)) else head


@register_fused(RetinaHead)
class FusedRetinaHead(Variant, RetinaHead):
    """A :class:`RetinaHead` whose scores and deltas leave it in fp32, also under autocast."""

    def __init__(self, head: RetinaHead) -> None:
        super().__init__(head)
        for name in ("retina_cls", "retina_reg"):
            if can_pack(getattr(head, name)):
                setattr(self, name, pack_conv(getattr(head, name)))

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A feature map (B, C, H, W) -> scores (B, A·classes, H, W), deltas (B, 4A, H, W)."""
        scores, deltas = super().forward_single(x)
        return (at_least_fp32(scores), at_least_fp32(deltas)) if cpu_inference(x) else (scores, deltas)
