"""Every config trains as the published recipe that it names: real schedules are stepped, real optimizers built."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import REPOSITORY
from families import Detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from localvit_det.config import load_config
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


CONFIGS = REPOSITORY / "configs"
BATCHES = 200  # of an epoch

load = functools.cache(load_config)


def paths_of(recipe: Recipe) -> list[Path]:
    found = {path for pattern in recipe.patterns for path in CONFIGS.glob(pattern)}
    three = any("_3x" in pattern for pattern in recipe.patterns)
    return sorted(path for path in found if ("_3x_" in path.stem) == three)


def schedules_of(cfg: Config) -> list[dict]:
    given = cfg.param_scheduler
    return [given] if isinstance(given, dict) else list(given)


def factors(cfg: Config, length: int) -> list[float]:
    """Factors of the base rate in every iteration, as MMEngine's hook steps the schedules."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    by_iteration, by_epoch = [], []
    for schedule in schedules_of(cfg):
        one = {key: value for key, value in schedule.items() if key != "_scope_"}
        if one.pop("convert_to_iter_based", False):
            one = {**one, "convert_to_iter_based": True, "epoch_length": BATCHES}
        if one["type"] == "CosineAnnealingLR":
            one.setdefault("end", length)
        built = PARAM_SCHEDULERS.build(one, default_args={"optimizer": optimizer})
        (by_epoch if built.by_epoch else by_iteration).append(built)
    found = []
    for iteration in range(length if length >= 1000 else length * BATCHES):
        found.append(optimizer.param_groups[0]["lr"])
        for one in by_iteration:
            one.step()
        if (iteration + 1) % BATCHES == 0:
            for one in by_epoch:
                one.step()
    return found


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (one.length > 1000 or name == "3x"))
        for name, one in RECIPES.items()
    ],
)
def test_rates(name):
    recipe = RECIPES[name]
    paths = paths_of(recipe)
    assert paths
    by_schedule = {json.dumps([*schedules_of(load(path)), load(path).train_cfg], default=str): path for path in paths}
    for path in by_schedule.values():
        cfg = load(path)
        assert recipe.length == cfg.train_cfg.get("max_iters", cfg.train_cfg.get("max_epochs"))
        rates = factors(cfg, recipe.length)
        start, warm = recipe.warm_up
        assert rates[0] == pytest.approx(start)
        warm *= BATCHES if warm < 100 else 1
        if warm:
            assert rates[warm // 2] == pytest.approx((1 + start) / 2, rel=0.03)
            assert rates[warm] == pytest.approx(1, abs=0.01)
        for share, expected in recipe.rates.items():
            assert rates[int(share * len(rates))] == pytest.approx(expected, abs=2e-3), (path.stem, share)


@pytest.mark.parametrize("name", RECIPES)
def test_numbers(name):
    recipe = RECIPES[name]
    for path in paths_of(recipe):
        cfg = load(path)
        optimizer, clip = cfg.optim_wrapper.optimizer, cfg.optim_wrapper.get("clip_grad")
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", recipe.lr, recipe.weight_decay), path
        assert cfg.auto_scale_lr.base_batch_size == recipe.batch, path
        assert (clip and clip["max_norm"]) == recipe.clip, path


@functools.cache
def small(kind: str) -> Detector:
    """A backbone with all of its kinds of parameters, built once."""
    sizes = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    if kind == "SwinTransformer":
        settings = sizes
    elif kind == "PyramidVisionTransformer":
        settings = {"embed_dims": 32}
    else:
        settings = {"arch": {**sizes, "drop_path_rate": 0.0}}
    return Detector(MODELS.build({"type": kind, **settings}))


def is_free(name: str, parameter: nn.Parameter, model: nn.Module, rule: str) -> bool:
    """Whether a recipe leaves a parameter without decay, worked out from names and shapes alone."""
    if rule == ALL:
        return False
    positions = ("relative_position_bias_table", ".position.", "rel_pos_msg", "absolute_pos_embed")
    norm = "norm" in name or ("backbone" in name and ".bn" in name)
    biases = rule == NO_BIAS and name.endswith(".bias")
    return norm or any(part in name for part in positions) or biases


@pytest.mark.parametrize("name", RECIPES)
def test_decay_and_rates_of_parameters(name):
    recipe = RECIPES[name]
    seen = set()
    for path in paths_of(recipe):
        cfg = load(path)
        kind = cfg.model.backbone.type
        key = (kind, json.dumps(cfg.optim_wrapper, default=str))
        if key in seen:
            continue
        seen.add(key)
        model = small(kind)
        wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"})
        groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group["params"]}
        for parameter_name, parameter in model.named_parameters():
            group = groups[id(parameter)]
            inside = parameter_name.startswith("backbone.")
            rate = recipe.lr * (recipe.backbone_rate if inside else 1)
            assert group["lr"] == pytest.approx(rate), (path.stem, parameter_name)
            if inside:
                free = is_free(parameter_name, parameter, model, recipe.exempt)
                assert group["weight_decay"] == (0 if free else recipe.weight_decay), (path.stem, parameter_name)


@pytest.mark.parametrize("path", sorted([*CONFIGS.glob("*.py"), *CONFIGS.glob("pretrain/*.py")]), ids=lambda p: p.stem)
def test_drop_path(path):
    backbone = load(path).model.backbone
    kind = MODELS.get(backbone.type)
    if "nano" in path.stem or not hasattr(kind, "arch_settings"):
        pytest.skip("not a published size")
    arch = kind.arch_settings[backbone.arch]
    own = arch["drop_path_rate"]  # of a family without a row in the table
    expected = DETECTORS.get(path.stem, CLASSIFIERS.get((kind.short_name, backbone.arch[0]), own))
    assert backbone.get("drop_path_rate", arch["drop_path_rate"]) == expected


@pytest.mark.parametrize(("path"), sorted(CONFIGS.glob("*_svt_*coco.py")), ids=lambda p: p.stem)
def test_windows_of_twins_detectors_see_their_padding(path):
    """As in the official detection code; the class masks padding by default."""
    assert load(path).model.backbone.mask_padding is False
