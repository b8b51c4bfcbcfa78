"""What the published recipes train with, by config: the right values of test_recipes.py.

Sources: Swin's detection code (schedules 1x and 3x), PVT's and Twins' (1x), MMDetection's configs of DINO, Mask2Former
and RTMDet with a Swin, PVT's Semantic FPN, Swin's UPerNet, Swin's and DeiT's classification.
"""

from typing import NamedTuple

from make_configs import OTHERS, TINY

SWIN, ALL, NO_BIAS = "norms and positions", "nothing", "norms, positions and biases"


class Recipe(NamedTuple):
    """Rates are factors of the base rate, by the share of the training that is done."""

    patterns: tuple[str, ...]  # of configs, below configs/
    lr: float
    weight_decay: float
    batch: int  # that the rate is meant for
    length: int  # epochs, or iterations from 1000 on
    warm_up: tuple[float, int]  # factor at the start, iterations (epochs, where a rate follows them)
    rates: dict[float, float]
    exempt: str  # from weight decay, in the backbone
    clip: float | None = None
    backbone_rate: float = 1.0


STEPS_1X = {0.6: 1, 0.7: 0.1, 0.95: 0.01}
RECIPES = {
    "1x": Recipe(
        (
            *(f"mask_rcnn_{net}_*_coco.py" for net in (*OTHERS, "swin")),
            *(f"{head}_{net}_t_coco.py" for head in ("faster_rcnn", "panoptic_fpn") for net in ("shuffle", "dwnet")),
            *(f"retinanet_{net}_t_coco.py" for net in ("shuffle", "gg", "dwnet")),
        ),
        *(1e-4, 0.05, 16, 12, (0.001, 1000), STEPS_1X, SWIN),
    ),
    "3x": Recipe(("*_3x_coco.py",), *(1e-4, 0.05, 16, 36, (0.001, 1000), {0.74: 1, 0.76: 0.1, 0.95: 0.01}, SWIN)),
    "1x of PVT": Recipe(
        ("mask_rcnn_pcpvt_*_coco.py", "mask_rcnn_svt_*_coco.py", "mask_rcnn_pvt_s_coco.py"),
        *(2e-4, 1e-4, 16, 12, (0.001, 500), STEPS_1X, ALL),
    ),
    "RetinaNet of PVT": Recipe(
        ("retinanet_pcpvt_*.py", "retinanet_svt_*.py"), 1e-4, 1e-4, 16, 12, (0.001, 500), STEPS_1X, ALL
    ),
    "DINO": Recipe(("dino_*.py",), *(1e-4, 1e-4, 16, 12, (1, 0), {0.0: 1, 0.9: 1, 0.95: 0.1}, ALL, 0.1, 0.1)),
    "Mask2Former": Recipe(
        ("mask2former_*.py",),
        *(1e-4, 0.05, 16, 368750, (1, 0), {0.0: 1, 0.88: 1, 0.9: 0.1, 0.97: 0.01}, SWIN, 0.01, 0.1),
    ),
    "RTMDet-Ins with a Swin": Recipe(
        ("rtmdet_ins_*.py",), *(1e-3, 0.05, 128, 100, (1e-5, 1000), {0.49: 1, 0.75: 0.525, 0.9999: 0.05}, NO_BIAS)
    ),
    "Semantic FPN of PVT": Recipe(
        ("sem_fpn_*_ade20k.py",), 1e-4, 1e-4, 32, 80000, (1, 0), {0.0: 1, 0.5: 0.5**0.9, 0.99999: 0}, ALL
    ),
    "UPerNet of Swin": Recipe(
        ("upernet_*_ade20k.py",), 6e-5, 0.01, 16, 160000, (1e-6, 1500), {0.5: 80000 / 158500, 0.99999: 0}, SWIN
    ),
    "classifiers of Swin": Recipe(
        tuple(f"pretrain/{net}_in1k.py" for net in TINY),
        *(1e-3, 0.05, 1024, 300, (0.001, 20), {160 / 300: 0.505, 0.99999: 0.01}, NO_BIAS, 5.0),
    ),
    "classifiers of DeiT": Recipe(
        ("pretrain/pcpvt_*_in1k.py", "pretrain/svt_*_in1k.py"),
        *(1e-3, 0.05, 1024, 300, (0.001, 5), {152.5 / 300: 0.5076, 0.99999: 0.01}, NO_BIAS, 5.0),
    ),
}

# Published drop path rates: (family, size) of classifiers, and what detectors have instead.
CLASSIFIERS = {
    **dict(zip([("shuffle", s) for s in "tsb"], (0.1, 0.3, 0.5), strict=True)),
    **dict(zip([("gg", s) for s in "tsb"], (0.2, 0.3, 0.5), strict=True)),
    **dict(zip([("msg", s) for s in "tsb"], (0.1, 0.3, 0.5), strict=True)),
    **{(net, size): rate for net in ("dwnet", "ddwnet", "iddwnet") for size, rate in {"t": 0.2, "b": 0.5}.items()},
    **{(net, size): rate for net in ("pcpvt", "svt") for size, rate in {"s": 0.2, "b": 0.3, "l": 0.5}.items()},
}
DETECTORS = {
    **{f"cascade_mask_rcnn_{net}_b_3x_coco": 0.3 for net in ("dwnet", "ddwnet")},
    **{
        f"{head}_{net}_{size}_{end}": 0.2
        for head, end in (("mask_rcnn", "coco"), ("mask_rcnn", "3x_coco"), ("retinanet", "coco"))
        for net in ("pcpvt", "svt")
        for size in "sbl"
    },
}
