"""Writes official_training.npz: what the official codes of Shuffle Transformer and DWNet compute at the cases of official_training.

    python tests/data/make_official_training.py Shuffle-Transformer DemystifyLocalViT

Takes checkouts of mulinmeng/Shuffle-Transformer (8ba81ea was used) and Atten4Vis/DemystifyLocalViT (ce7c0b7), and an
interpreter with timm 0.3.2. `tests/backbones/test_official_training.py` compares ours with the file.
"""

import collections.abc
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from make_official_outputs import load, stand_in
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from official_outputs import weights
from official_training import CASES, CHANNELS, DEPTHS, FILE, HEADS, WINDOWS, Case, record


def idynamic(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """The CUDA kernel of `idynamic.py` by its indices: out[n, c, h, w] = Σ weight[n, g(c), i, j, h, w] · x[n, c, h + i - p, …]."""
    batch, groups, kernel, _, height, width = weight.shape
    patches = F.unfold(x, kernel, padding=padding, stride=stride).view(batch, groups, -1, kernel, kernel, height, width)
    return (patches * weight[:, :, None]).sum((3, 4)).flatten(1, 2)


def shuffle(code: SimpleNamespace, case: Case) -> nn.Module:
    """The classifier."""
    return code.ShuffleTransformer(
        embed_dim=CHANNELS, layers=DEPTHS, num_heads=HEADS, window_size=WINDOWS[case.kind], qkv_bias=True
    )


def dwnet(code: dict[str, SimpleNamespace], case: Case) -> nn.Module:
    """The classifier or the detection backbone, with the depth-wise convolution that belongs there.

    The classifier's choice of it overwrites the dynamic one (an if/if/else), and the detection code has no inhomogeneous
    one: both are put in.
    """
    settings = {"embed_dim": CHANNELS, "depths": DEPTHS, "window_size": WINDOWS[case.kind]}
    if case.form == "classification":
        net = code["classification"].DWNet(img_size=(case.height, case.width), inhomo_heads=HEADS, **settings)
    else:
        net = code["detection"].DWNet(**settings)
    for stage, layer in enumerate(net.layers):
        for block in layer.blocks:
            channels, window = block.dim, WINDOWS[case.kind]
            if case.kind == "DynamicDWNet":
                make = code[case.form].DynamicDWConv
                block.attn2conv.conv = make(channels, window, padding=window // 2, groups=channels)
            if case.kind == "IDynamicDWNet":
                block.attn2conv.conv = code["classification"].IDynamicDWConv(channels, window, HEADS[stage])
    return net


def maps_of(net: nn.Module, images: Tensor) -> list[Tensor]:
    """The end of each stage; in detection with its norm."""
    if not hasattr(net, "forward_features"):
        return list(net(images))
    stages = [net.stage1, net.stage2, net.stage3, net.stage4] if hasattr(net, "stage1") else net.layers
    found = []
    hooks = [
        (stage if hasattr(net, "stage1") else stage.blocks[-1]).register_forward_hook(lambda _, __, x: found.append(x))
        for stage in stages
    ]
    net.forward_features(images)
    for hook in hooks:
        hook.remove()
    sizes = [(images.shape[2] // (4 * 2**i), images.shape[3] // (4 * 2**i)) for i in range(4)]
    return [x if x.dim() == 4 else x.transpose(1, 2).unflatten(2, size) for x, size in zip(found, sizes, strict=True)]


def main(shuffle_folder: str, dwnet_folder: str) -> None:
    """Runs all cases."""
    stand_in("torch._six", container_abcs=collections.abc, int_classes=int, string_classes=str)
    stand_in("cupy", ndarray=type(None), _util=SimpleNamespace(memoize=lambda **_: lambda what: what))
    stand_in("mmcv.cnn", ConvModule=None, build_norm_layer=lambda cfg, channels: ("bn", nn.BatchNorm2d(channels)))
    stand_in("mmcv_custom", load_checkpoint=None)
    for name in ("mmcv", "mmdet", "mmdet.models", "mmdet.models.backbones", "official"):
        stand_in(name, __path__=[])
    stand_in("mmdet.utils", get_root_logger=None)
    stand_in("mmdet.models.builder", BACKBONES=SimpleNamespace(register_module=lambda: lambda what: what))
    demystify = Path(dwnet_folder)
    kernels = load(demystify / "models/idynamic.py", "official.idynamic")
    kernels._idynamic_cuda = idynamic
    codes = {
        "classification": load(demystify / "models/dwnet.py", "official.dwnet"),
        "detection": load(
            demystify / "downstreams/detection/mmdet/models/backbones/dwnet.py", "mmdet.models.backbones.dwnet"
        ),
    }
    codes["classification"].IDynamicDWConv = kernels.IDynamicDWConv
    transformer = load(Path(shuffle_folder) / "models/shuffle_transformer.py")
    results = {}
    for case in CASES:
        torch.manual_seed(0)
        net = shuffle(transformer, case) if case.kind == "ShuffleTransformer" else dwnet(codes, case)
        net.load_state_dict(weights(net.double().state_dict()))
        for module in net.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
        found = record(net, lambda images, net=net: maps_of(net, images), case)
        results |= {f"{case} {group}": rows for group, rows in found.items()}
        print(case, {group: rows.shape for group, rows in found.items()}, flush=True)
    np.savez_compressed(FILE, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
