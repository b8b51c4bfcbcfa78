"""Detectors with the real structure and small numbers."""

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localvit_det.config import load_config
from localvit_det.config.model import match_channels

SURER = ("fc_cls.weight", "retina_cls.weight", "fc_reg.weight", "rpn_reg.weight", "retina_reg.weight")


def model_of(config: str) -> dict:
    """The model of a config; those for COCO get a nano backbone and narrow heads."""
    init_default_scope("mmdet")
    cfg = load_config(f"configs/{config}.py", {}).model
    if "nano" in config:
        return cfg
    nano = model_of("mask_rcnn_shuffle_nano_shapes").backbone
    cfg.backbone = {**nano, "out_indices": cfg.backbone.get("out_indices", (0, 1, 2, 3))}
    cfg.neck.in_channels = [32, 64, 128, 256][-len(cfg.neck.in_channels) :]
    cfg.neck.out_channels = 32
    parts = [cfg.get("bbox_head"), cfg.get("rpn_head")]
    if "roi_head" in cfg:
        roi = cfg.roi_head
        parts += [*(roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]), roi.get("mask_head")]
        for extractor in filter(None, (roi.bbox_roi_extractor, roi.get("mask_roi_extractor"))):
            extractor.out_channels = 32
        cfg.test_cfg.rpn.max_per_img, cfg.test_cfg.rcnn.max_per_img = 60, 20
    for part in filter(None, parts):
        part.in_channels = 32
        sizes = {"feat_channels": 32, "conv_out_channels": 32, "fc_out_channels": 48, "num_classes": 5}
        part.update({key: value for key, value in sizes.items() if key in part})
    return cfg


def shrink(cfg: Config) -> Config:
    """A nano backbone, and few proposals, queries, layers and points."""
    model = cfg.model
    arch = {"embed_dims": 32, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}
    if "num_heads" in MODELS.get(model.backbone.type).accepted_arguments():
        arch["num_heads"] = (1, 1, 1, 1)
    model.backbone.update(arch=arch, window_size=3)
    match_channels(cfg)
    if "rcnn" in model.train_cfg:
        model.train_cfg.rcnn.sampler.num = 16
        model.test_cfg.rpn.max_per_img = 20
    if model.type == "DINO":
        model.num_queries = 20
        model.encoder.num_layers, model.decoder.num_layers = 1, 2
    if model.type == "Mask2Former":
        model.panoptic_head.num_queries = 10
        model.panoptic_head.pixel_decoder.encoder.num_layers = 1
        model.panoptic_head.transformer_decoder.num_layers = 1
        model.train_cfg.num_points = 128
        model.data_preprocessor.batch_augments[0].size = (128, 128)
    if model.type == "RTMDet":
        model.neck.num_csp_blocks = 1
    return cfg


def with_resnet(cfg: dict) -> dict:
    cfg.backbone = {"type": "ResNet", "depth": 50, "base_channels": 8, "norm_cfg": {"type": "BN"}, "frozen_stages": 1}
    cfg.neck.in_channels = [32, 64, 128, 256]
    return cfg


DETECTORS = {
    "mask_rcnn": lambda: model_of("mask_rcnn_shuffle_nano_shapes"),
    "mask_rcnn_swin": lambda: model_of("mask_rcnn_swin_nano_shapes"),
    "mask_rcnn_resnet": lambda: with_resnet(model_of("mask_rcnn_swin_nano_shapes")),
    "cascade": lambda: model_of("cascade_mask_rcnn_shuffle_t_3x_coco"),
    "retinanet": lambda: model_of("retinanet_shuffle_t_coco"),
}


def build_detector(model: str | dict, surer: tuple[str, ...] = SURER, factor: float = 10.0) -> nn.Module:
    """A detector with random weights that finds something: its classifier is made to be surer of itself.

    Args:
        model: A name among `DETECTORS`, or a config.
        surer: Ends of the names of parameters that are made larger.
        factor: How much.
    """
    torch.manual_seed(0)
    # DINO's constructor leaves a parameter as the memory was: what that holds would decide what is found.
    torch.use_deterministic_algorithms(True)  # in which such memory is NaN
    try:
        model = MODELS.build(DETECTORS[model]() if isinstance(model, str) else model).eval()
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.isnan().any():
                parameter.normal_()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        for key, parameter in model.named_parameters():
            if key.endswith(surer):
                parameter.mul_(factor)
    return model


def step_and_predict(model: nn.Module, data: dict) -> list:
    """Return predictions, after a step whose losses are finite and give each parameter of the backbone a gradient."""
    losses = model.train()(**model.data_preprocessor(data, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    assert not [name for name, p in model.backbone.named_parameters() if p.grad is None]
    with torch.no_grad():
        return model.eval()(**model.data_preprocessor(data, training=False), mode="predict")


def training_sample(size: int) -> DetDataSample:
    """Two objects with masks in an image of this size, which is at least 64."""
    shape = (size, size)
    names = ("img_shape", "pad_shape", "ori_shape", "batch_input_shape")
    sample = DetDataSample(metainfo={**dict.fromkeys(names, shape), "scale_factor": (1.0, 1.0)})
    masks = np.zeros((2, *shape), np.uint8)
    masks[0, 5:30, 5:30] = masks[1, 20:60, 20:50] = 1
    boxes = torch.tensor([[5.0, 5, 30, 30], [20, 20, 50, 60]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]), masks=BitmapMasks(masks, *shape))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return sample
