"""Writes official_outputs.npz: what the official codes of MSG-Transformer and Twins compute at the cases of official_outputs.

    python tests/data/make_official_outputs.py MSG-Transformer Twins

Takes checkouts of hustvl/MSG-Transformer (068da56 was used) and Meituan-AutoML/Twins (c1ff671), and an interpreter with
timm 0.3.2. `tests/backbones/test_official_outputs.py` compares ours with the file.
"""

import collections.abc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from official_outputs import FILE, Case, cases, digest, image, weights

MSG_SIZES = {
    "tiny": (64, (2, 4, 12, 4), (2, 4, 8, 16)),
    "small": (96, (2, 4, 12, 4), (3, 6, 12, 24)),
    "base": (96, (2, 4, 28, 4), (3, 6, 12, 24)),
}


def stand_in(name: str, **content: object) -> None:
    """A module that the official codes import, and that they need nothing else of."""
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(content)


def load(path: Path, name: str | None = None) -> ModuleType:
    """A Python file, under a name of its own unless its relative imports need another."""
    spec = importlib.util.spec_from_file_location(name or "_".join(path.with_suffix("").parts[-2:]), path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # timm looks for it there
    spec.loader.exec_module(module)
    return module


def decorator(*_: object, **__: object) -> object:
    """Decorates with nothing."""
    return lambda what: what


class MSG:
    """The official MSG-Transformer, which returns no maps."""

    def __init__(self, folder: Path) -> None:
        self.code = load(folder / "models/msg_transformer.py")

    def build(self, case: Case) -> nn.Module:
        """At the case's size, which it is made for."""
        channels, depths, heads = MSG_SIZES[case.arch]
        regions = [4, 4, 4, 2] if case.form == "4442" else [4, 4, 2, 1]
        return self.code.MSGTransformer(
            (case.height, case.width), embed_dim=channels, depths=depths, num_heads=heads, shuffle_size=regions
        )

    def maps(self, net: nn.Module, case: Case) -> list[Tensor]:
        """The patches at the end of each stage."""
        found = last_outputs(net, [layer.blocks for layer in net.layers], case)
        regions = net.shuffle_size
        sizes = [(case.height // (4 * 2**i), case.width // (4 * 2**i)) for i in range(4)]
        return [
            self.code.window_reverse(x[:, :, 1:].contiguous(), 7, region, *size, nchw=True)
            for x, region, size in zip(found, regions, sizes, strict=True)
        ]


class Twins:
    """The official Twins; the classifier returns no maps."""

    def __init__(self, folder: Path) -> None:
        self.classification, self.detection = load(folder / "gvt.py"), load(folder / "detection/gvt.py")

    def build(self, case: Case) -> nn.Module:
        """The classifier, or the detection backbone."""
        svt = case.kind == "TwinsSVT"
        if case.form == "detection":
            return getattr(self.detection, f"{'alt_gvt' if svt else 'pcpvt'}_{case.arch}")()
        if svt and case.height % 224:
            # The classifier cannot run at this size; its trunk is the detector's without norms, which pads windows.
            net = getattr(self.detection, f"alt_gvt_{case.arch}")()
            net.extra_norm = False
            del net.norm_list
            return net
        return getattr(self.classification, f"alt_gvt_{case.arch}" if svt else f"pcpvt_{case.arch}_v0")()

    def maps(self, net: nn.Module, case: Case) -> list[Tensor]:
        """The end of each stage; in detection with its norm."""
        if type(net).__module__ != self.classification.__name__:
            return net(image(case.height, case.width))
        found = last_outputs(net, net.blocks, case)
        sizes = [(case.height // (4 * 2**i), case.width // (4 * 2**i)) for i in range(4)]
        return [x.transpose(1, 2).unflatten(2, size) for x, size in zip(found, sizes, strict=True)]


def last_outputs(net: nn.Module, stages: list[nn.ModuleList], case: Case) -> list[Tensor]:
    """What the last block of each stage gives."""
    found = []
    hooks = [blocks[-1].register_forward_hook(lambda _, __, output: found.append(output)) for blocks in stages]
    net.forward_features(image(case.height, case.width))
    for hook in hooks:
        hook.remove()
    return found


def main(msg: str, twins: str) -> None:
    """Runs all cases."""
    stand_in("torch._six", container_abcs=collections.abc, int_classes=int, string_classes=str)
    for name in ("mmcv", "mmdet", "mmdet.models"):
        stand_in(name)
    stand_in("mmcv.runner", load_checkpoint=None, auto_fp16=decorator, force_fp32=decorator)
    registry = type("Registry", (), {"register_module": decorator})
    stand_in("mmdet.models.builder", BACKBONES=registry)
    stand_in("mmdet.utils", get_root_logger=None)
    codes = {"MSGTransformer": MSG(Path(msg)), "TwinsPCPVT": (twins_code := Twins(Path(twins))), "TwinsSVT": twins_code}
    results = {}
    for case in cases():
        net = codes[case.kind].build(case).eval()
        net.load_state_dict(weights(net.state_dict()))
        with torch.no_grad():
            results[str(case)] = digest(codes[case.kind].maps(net, case))
        print(case, np.abs(results[str(case)]).max(axis=1), flush=True)
        np.savez_compressed(FILE, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
