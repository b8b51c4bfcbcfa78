"""Run an exported detector in a detector's place: the same call, the same results."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import mask2bbox
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from ..checkpoint.exported import Info, check_trusted, read_info
from ..config.pipelines import fitting
from ..config.utils import find_datasets
from ..errors import CheckpointError, UserError, first_line
from ..fused.roi_heads import paste_masks
from .formats import Run, find_format


@MODELS.register_module()
class ExportedDetector(nn.Module):
    """Run an exported model on a CPU, one image after the other, where MMDetection expects a detector.

    Args:
        file: What `export_detector` wrote, or what runs it already.
        info: What the file would say, where it is running already.
        trusted: Run also the formats that may do anything, TorchScript and `torch.export`.

    Raises:
        CheckpointError: It is no such file, or not trusted.
        ExportError: Its runtime is not installed.
    """

    def __init__(self, file: str | os.PathLike | Run, info: Info | None = None, trusted: bool = False) -> None:
        super().__init__()
        if isinstance(file, (str, os.PathLike)):
            if not trusted:
                check_trusted(file)
            self.info, self.run = read_info(file), _run_of(file)
        elif info is None:
            raise TypeError("A model that is open already needs the info of its file.")
        else:
            self.info, self.run = info, file
        self.test_cfg = {"score_thr": self.info.score}  # where detectors have theirs

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Sequence[Any]]) -> list[DetDataSample]:
        """Find objects in images as a test pipeline gives them.

        Args:
            data: Images, (3, H, W), uint8, under 'inputs', and as many samples under 'data_samples'.

        Returns:
            The samples, with boxes and masks, or the class of each pixel, at the images' original sizes.
        """
        score = max(self.test_cfg["score_thr"], self.info.score)
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            if self.info.is_segmentor:
                logits = self.logits(image, sample)
                sample.seg_logits = PixelData(data=logits)
                sample.pred_sem_seg = PixelData(data=logits.argmax(0, keepdim=True))
            else:
                sample.pred_instances = self.find(image, sample, score)
        return list(data["data_samples"])

    def find(
        self, image: Tensor, sample: DetDataSample, score: float, mask_threshold: float | None = None
    ) -> InstanceData:
        """Return the objects in one image.

        Args:
            image: (3, H, W), uint8.
            sample: What its test pipeline has noted.
            score: Objects have larger scores.
            mask_threshold: As of `paste_masks`; by default the detector's own.
        """
        padded, size = self.info.input_of(image)
        given = dict(zip(self.info.outputs, self.run(padded, size, torch.tensor(score)), strict=False))
        found = InstanceData(scores=given["scores"], labels=given["labels"])
        if "boxes" not in given:
            return self._from_masks(found, given["mask_logits"], padded.shape[2:], size, sample)
        boxes = given["boxes"]
        found.bboxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)  # width, height, width, height
        if "masks" in given:
            height, width = sample.ori_shape[:2]
            threshold = self.info.mask_threshold if mask_threshold is None else mask_threshold
            found.masks = paste_masks(given["masks"], found.bboxes, height, width, threshold)
        elif "mask_logits" in given:
            found.masks = self._image_masks(given["mask_logits"], padded.shape[2:], sample)
        return found

    def logits(self, image: Tensor, sample: BaseDataElement) -> Tensor:
        """Return logits (classes, H, W) of each pixel of an image, given as to `find`, at its original size."""
        padded, size = self.info.input_of(image)
        logits = dict(zip(self.info.outputs, self.run(padded, size), strict=True))["logits"]
        whole = self._resized(logits, padded.shape[2:])[:, : size[0], : size[1]]
        return self._resized(whole, sample.ori_shape[:2])

    def _image_masks(self, logits: Tensor, padded: Sequence[int], sample: DetDataSample) -> Tensor:
        """Return masks (N, H, W), bool, of an image at its original size, from logits (N, h, w) of the padded one."""
        height, width = sample.ori_shape[:2]
        if not len(logits):
            return torch.zeros(0, height, width, dtype=torch.bool)
        # As RTMDet-Ins does, whose padding is resized, too, and its height by the factor of the width.
        size = [math.ceil(side * (1 / factor)) for side, factor in zip(padded, sample.scale_factor, strict=True)]
        whole = self._resized(self._resized(logits, padded), size)
        return (whole.sigmoid() > self.info.mask_threshold)[:, :height, :width]

    def _from_masks(
        self, found: InstanceData, logits: Tensor, padded: Sequence[int], size: Tensor, sample: DetDataSample
    ) -> InstanceData:
        """Return objects with masks, boxes round these, and scores to which masks belong, as Mask2Former does.

        Args:
            found: With scores of the classes alone.
            logits: (N, h, w), stretched over the padded image, whose part without padding has `size`.
        """
        whole = torch.zeros(0, *sample.ori_shape[:2])
        if len(logits):
            whole = self._resized(self._resized(logits, padded)[:, : size[0], : size[1]], sample.ori_shape[:2])
        found.masks = whole > 0
        inside = (whole.sigmoid() * found.masks).flatten(1).sum(1) / (found.masks.flatten(1).sum(1) + 1e-6)
        found.scores = found.scores * inside
        found.bboxes = mask2bbox(found.masks)
        return found

    def _resized(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Return maps (C, h, w) at another height and width."""
        return F.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=self.info.align_corners)[0]


def run_exported(cfg: Config, file: str | os.PathLike, trusted: bool = False) -> None:
    """Let a config's test run an exported model instead of the config's own.

    Raises:
        CheckpointError: It is no exported detector, or not trusted.
    """
    size = read_info(file).size
    cfg.pop("data_preprocessor", None)  # MMEngine's runner would hand it to the model
    cfg.model = {"type": "mmdet.ExportedDetector", "file": os.fspath(file), "trusted": trusted}
    for _, dataset in find_datasets(cfg, "test"):
        dataset["pipeline"] = fitting(dataset["pipeline"], size)


def _run_of(file: str | os.PathLike) -> Run:
    try:
        return find_format(None, file).open(Path(file))
    except UserError:
        raise
    # Each runtime has errors of its own.
    except Exception as error:
        raise CheckpointError(f"{file} cannot be opened ({first_line(error)}): export it again.") from error
