"""Every config of the repository is read, checked, built and trained for one step at a small size."""

import re
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from localvit_det.backbones import LocalViT
from localvit_det.config import load_config
from localvit_det.preflight.classes import check_num_classes

# Other heads have their recipes from MMDetection: test_heads.py.
RECIPES = ("mask_rcnn", "cascade", "retinanet", "faster_rcnn")
CONFIGS = [path for path in sorted((REPOSITORY / "configs").glob("*.py")) if path.stem.startswith(RECIPES)]
OTHERS = ("rtmdet_ins_*_t_coco", "dino_*_t_coco", "mask2former_*_t_coco*", "panoptic_fpn_*_t_coco")
OTHERS = sorted(path for name in OTHERS for path in (REPOSITORY / "configs").glob(f"{name}.py"))
QUICK = ("mask_rcnn_shuffle_nano", "mask_rcnn_msg_nano")


def smallest_models() -> list:
    """One config for each backbone and each head, of the smallest size: larger ones have more of the same parts."""
    seen: dict[str, Path] = {}
    for path in sorted(CONFIGS, key=lambda p: ("_nano_" not in p.stem, "_t_" not in p.stem, "_s_" not in p.stem)):
        backbone = re.sub(r"_(nano_shapes|[tsbl](_3x)?_coco)$", "", path.stem)
        seen.setdefault(backbone if path.stem.startswith("mask_rcnn") else path.stem.partition("_")[0], path)
    return [
        pytest.param(p, id=p.stem, marks=() if p.stem.startswith(QUICK) else pytest.mark.slow) for p in seen.values()
    ]


def loss_step(cfg: Config) -> None:
    """Builds the model, computes its losses on two small images, and steps its optimiser."""
    # Published sizes and the 512 RoIs of an image take seconds; test_published_numbers.py builds every size.
    for rcnn in stages(cfg.model.train_cfg.get("rcnn", [])):
        rcnn.sampler.num = 16
    for head in stages(cfg.model.get("roi_head", {}).get("bbox_head", [])):
        head.fc_out_channels = 64
    backbone = cfg.model.backbone
    if isinstance(backbone.get("arch"), str):
        published = MODELS.get(backbone.type).arch_settings[backbone.arch]
        backbone.arch = {**published, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}
    model = MODELS.build(cfg.model).train()
    classes = next(n for n in (3, 80) if n == first_classes(cfg.model))
    data = demo_mm_inputs(2, [(3, 96, 128)] * 2, num_classes=classes, with_mask=True)
    data = model.data_preprocessor(data, training=True)
    losses = model(**data, mode="loss")
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.backbone.stem.state_dict() if isinstance(model.backbone, LocalViT) else {}
    before = {k: v.clone() for k, v in before.items()}
    optimizer.update_params(total)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for key, value in before.items():
        if "running" not in key and "batches" not in key:
            assert not torch.equal(value, model.backbone.stem.state_dict()[key]), f"{key} was not trained"


def first_classes(model) -> int:
    head = model.roi_head.bbox_head if "roi_head" in model else model.bbox_head
    return stages(head)[0].num_classes


def stages(part) -> list:
    """The stages of a cascade, or the only one."""
    return part if isinstance(part, list) else [part]


@pytest.mark.parametrize("path", smallest_models())
def test_one_step(path):
    loss_step(load_config(path))


@pytest.mark.parametrize("path", [*CONFIGS, *OTHERS], ids=lambda p: p.stem)
def test_config_is_whole(path):
    cfg = load_config(path)
    init_default_scope(cfg.default_scope)  # as the runner does; nested transforms are looked up by it
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline):
        for transform in pipeline:
            TRANSFORMS.build(transform)
    if path in CONFIGS:
        epochs = cfg.train_cfg.max_epochs
        assert epochs == (36 if "_3x" in path.stem else 8 if "nano" in path.stem else 12)
        assert cfg.param_scheduler[-1].end == epochs
    assert cfg.runner_type == "ReliableRunner"
    assert "FusedEvaluationHook" in [hook.type for hook in cfg.custom_hooks]
    check_num_classes(cfg, "train")
    assert cfg.sync_bn == "torch"
    assert cfg.optim_wrapper.optimizer.type == "AdamW"
    backbone = MODELS.get(cfg.model.backbone.type)
    if issubclass(backbone, LocalViT):
        part = cfg.model.neck if "neck" in cfg.model else cfg.model.panoptic_head
        assert part.in_channels == list(backbone.out_channels_of(cfg.model.backbone))
        assert f"_{backbone.short_name}_" in path.stem


@pytest.mark.parametrize("net", ["shuffle", "svt", "msg"])
def test_no_decay_on_norms_and_positions(net):
    cfg = load_config(REPOSITORY / f"configs/mask_rcnn_{net}_nano_shapes.py")
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.backbone.named_parameters():
        parts = ("norm", "relative_position_bias_table", ".position.", "rel_pos_msg")
        free = any(part in name for part in parts)
        assert decay[id(parameter)] == (0 if free else 0.05), name


@pytest.mark.parametrize(
    "backbone",
    [
        "type='DWNet', arch='tiny'",
        pytest.param("type='GGTransformer', arch='base'", marks=pytest.mark.slow),
        pytest.param("type='SwinTransformer'", marks=pytest.mark.slow),
        "type='ResNet', depth=18",
    ],
)
def test_a_backbone_is_swapped_by_its_own_entry(backbone, tmp_path):
    config = tmp_path / "swapped.py"
    config.write_text(
        f"_base_ = '{REPOSITORY}/configs/mask_rcnn_shuffle_t_coco.py'\n"
        f"model = dict(backbone=dict(_delete_=True, {backbone}))\n"
    )
    loss_step(load_config(config))
