"""One evaluation or training step of one detector, with its parts timed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor, nn

from localvit_det.evaluation import use_fast_eval
from localvit_det.fused import fuse_detector

from .detector_inputs import as_list, calibrate, limit_images, make_proposals, make_sample, seeded
from .detector_rows import DetectorOptions, DetectorRow
from .steps import DTYPES
from .stopwatch import Stopwatch


@dataclass(frozen=True)
class Sample:
    """What one pass over the data, or one training step, took.

    Attributes:
        seconds: By part.
        images: That were worked on.
        found: Instances found, or boxes sampled as positive; where rows differ, so does their work.
    """

    seconds: dict[str, float]
    images: int
    found: int


class Job:
    """A detector with something to do; calling it does that once.

    Attributes:
        dtype: In which it is done next.
        last: What the last call took.
    """

    dtype = "fp32"
    last: Sample

    def __call__(self) -> None:
        """Do it."""
        raise NotImplementedError


class EvaluationJob(Job):
    """Evaluates a detector on real images as `tools/test.py` does; a call is one pass from loading to metric."""

    def __init__(self, row: DetectorRow, options: DetectorOptions) -> None:
        cfg = row.load(options.cfg_options)
        if options.fast_eval:
            use_fast_eval(cfg)
        self._folder = tempfile.TemporaryDirectory()
        limit_images(cfg, options.images, Path(self._folder.name))
        cfg.test_dataloader.num_workers = options.workers
        cfg.test_dataloader.persistent_workers = options.workers > 0
        self.device, self.watch = options.device, Stopwatch(options.device)
        self.model = make_detector(cfg, row).to(self.device).eval()
        self.loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
        self.evaluator = Evaluator(cfg.test_evaluator)
        self.evaluator.dataset_meta = self.loader.dataset.metainfo
        if row.checkpoint is None:
            calibrate(self.model, next(iter(self.loader)))
        if row.way == "fused":
            fuse_detector(self.model)
        _time_inference(self.model, self.watch)

    def __call__(self) -> None:
        """Evaluate all images once."""
        found, batches = 0, iter(self.loader)
        # COCO's API prints its tables.
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            while True:
                with self.watch.part("data"):
                    batch = next(batches, None)
                if batch is None:
                    break
                with self.watch.part("rest"), autocast(self.device, self.dtype):
                    samples = self.model.test_step(batch)
                found += sum(len(sample.pred_instances) for sample in samples)
                with self.watch.part("metric"):
                    self.evaluator.process(data_samples=samples, data_batch=batch)
            with self.watch.part("metric"):
                self.evaluator.evaluate(len(self.loader.dataset))
        self.last = Sample(self.watch.read(), len(self.loader.dataset), found)


class TrainingJob(Job):
    """Forward, backward and optimiser on drawn images and boxes; a call is one step.

    All rows get the same proposals, after their own have been computed: random weights propose at random, and the
    number of boxes that then hit an object would decide which row is slower.
    """

    def __init__(self, row: DetectorRow, options: DetectorOptions) -> None:
        cfg = row.load(options.cfg_options)
        self.device, self.watch, self.batch = options.device, Stopwatch(options.device), options.batch
        self.model = make_detector(cfg, row).to(self.device)
        self.model.train()
        classes = _number_of_classes(self.model)
        self.images = torch.randn(options.batch, 3, *options.size, generator=seeded()).to(self.device)
        self.samples = [make_sample(options.size, i, classes).to(self.device) for i in range(options.batch)]
        self.optimizer = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.positives = 0
        self._share_proposals()
        _time_training(self.model, self.watch)

    def __call__(self) -> None:
        """Do one step."""
        self.positives = 0
        with _cut_at_maps(self.model) as cuts:
            with self.watch.part("rest"), autocast(self.device, self.dtype):
                losses = self.model.loss(self.images, [sample.clone() for sample in self.samples])
                loss = self.model.parse_losses(losses)[0]
            with self.watch.part("heads backward"):
                loss.backward()
            for name, outputs, inner in reversed(cuts):
                with self.watch.part(f"{name} backward"):
                    pairs = [
                        (o, i.grad)
                        for o, i in zip(outputs, inner, strict=True)
                        if o.requires_grad and i.grad is not None
                    ]
                    torch.autograd.backward(*zip(*pairs, strict=True))
        with self.watch.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.last = Sample(self.watch.read(), self.batch, self.positives)

    def _share_proposals(self) -> None:
        rpn, roi = getattr(self.model, "rpn_head", None), getattr(self.model, "roi_head", None)
        if rpn is None or roi is None:
            return
        size = self.images.shape[2:]
        proposals = [make_proposals(sample.gt_instances.bboxes.cpu(), size).to(self.device) for sample in self.samples]
        predict = rpn.predict_by_feat

        def predict_by_feat(*args, **kwargs) -> list[InstanceData]:
            predict(*args, **kwargs)
            return [InstanceData(bboxes=p.clone(), scores=p[:, 0], labels=p[:, 0].long() * 0) for p in proposals]

        rpn.predict_by_feat = predict_by_feat
        for sampler in as_list(roi.bbox_sampler):
            sampler.sample = self._counting(sampler.sample)

    def _counting(self, sample):
        def counting(*args, **kwargs):
            result = sample(*args, **kwargs)
            self.positives += len(result.pos_priors)
            return result

        return counting


def make_detector(cfg: Config, row: DetectorRow) -> nn.Module:
    """Build a detector; what is not its backbone starts from the same random numbers in all rows."""
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if row.checkpoint is not None:
        load_checkpoint(model, row.checkpoint, map_location="cpu")
    else:
        for name, part in model.named_children():
            torch.manual_seed(0)
            if name != "backbone" and hasattr(part, "init_weights"):
                part.init_weights()
    if row.way == "stock":
        for module in model.modules():
            if hasattr(module, "use_torchvision"):  # RoIAlign, whose stand-in in this package is faster
                module.use_torchvision = True
    return model


def autocast(device: str, dtype: str) -> AbstractContextManager:
    """Autocast for bf16, nothing for fp32."""
    return nullcontext() if dtype == "fp32" else torch.autocast(device, DTYPES[dtype])


def _time_inference(model: nn.Module, watch: Stopwatch) -> None:
    watch.wrap(model.backbone, "forward", "backbone")
    watch.wrap(model.neck, "forward", "neck")
    first = getattr(model, "rpn_head", None) or model.bbox_head
    watch.wrap(first, "forward", "dense head")
    watch.wrap(first, "predict_by_feat", "boxes of it")
    if hasattr(model, "roi_head"):
        watch.wrap(model.roi_head, "predict_bbox", "box head")
        if model.with_mask:
            watch.wrap(model.roi_head, "predict_mask", "mask head")
            for head in as_list(model.roi_head.mask_head):
                watch.wrap(head, "predict_by_feat", "mask pasting")


def _time_training(model: nn.Module, watch: Stopwatch) -> None:
    watch.wrap(model.backbone, "forward", "backbone")
    watch.wrap(model.neck, "forward", "neck")
    if hasattr(model, "rpn_head"):
        watch.wrap(model.rpn_head, "loss_and_predict", "RPN")
        watch.wrap(model.roi_head, "loss", "RoI heads")
    else:
        watch.wrap(model.bbox_head, "loss", "dense head")


@contextmanager
def _cut_at_maps(model: nn.Module) -> Iterator[list[tuple[str, list[Tensor], list[Tensor]]]]:
    """Cut the graph behind backbone and neck, so that backward can be timed by parts."""
    cuts: list[tuple[str, list[Tensor], list[Tensor]]] = []
    parts = [("backbone", model.backbone), ("neck", model.neck)]
    originals = [part.forward for _, part in parts]

    def cut(name, forward):
        def run(x):
            outputs = list(forward(x))
            inner = [o.detach().requires_grad_() for o in outputs]
            cuts.append((name, outputs, inner))
            return tuple(inner)

        return run

    try:
        for (name, part), forward in zip(parts, originals, strict=True):
            part.forward = cut(name, forward)
        yield cuts
    finally:
        for (_, part), forward in zip(parts, originals, strict=True):
            part.forward = forward


def _number_of_classes(model: nn.Module) -> int:
    head = model.roi_head.bbox_head if hasattr(model, "roi_head") else model.bbox_head
    return (head[0] if isinstance(head, nn.ModuleList) else head).num_classes
