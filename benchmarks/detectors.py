"""Compare whole detectors: `python -m benchmarks.detectors swin_t shuffle_t --data-root COCO`.

A row is NAME (of configs/mask_rcnn_NAME_coco.py, or resnet50) or NAME=CONFIG, and :WAY where it does not run as usual:
fused (ours, as our tools run it), plain (not fused), or stock (as MMDetection's tools run it).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple
from unittest import mock

import torch
from mmdet.models import TwoStageDetector
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils.benchmark import timer

from localvit.process import keep_memory
from localvit_det.cli import handle_user_errors
from localvit_det.config import load_config
from localvit_det.datasets.load_image import protect_loading
from localvit_det.errors import ConfigError, did_you_mean
from localvit_det.fused import fuse_detector

from .backbones import DTYPES
from .measure import process_peak
from .results import ROOT, Record
from .run import begin, finish_table, make_parser, size_of

WAYS = ("fused", "plain", "stock")
CANDIDATES = 1000  # scores of an image that count as found with random weights, about as many as of a trained detector
OBJECTS, NEAR, ANYWHERE = 7, 60, 580  # objects of a training image; proposals near each of them, and anywhere


class Row(NamedTuple):
    """One detector of the comparison, and how it is run."""

    name: str
    way: str
    config: str

    @property
    def label(self) -> str:
        """The name, and the way where it is not what the name alone stands for."""
        return self.name if self.way == _usual_way(self.name) else f"{self.name} ({self.way})"

    def build(self, data_root: str | None) -> tuple[Config, TwoStageDetector]:
        """Return config and detector; what is not its backbone starts from the same random numbers in all rows."""
        init_default_scope("mmdet")
        cfg = load_config(self.config, {"data_root": data_root} if data_root else {})
        if self.name == "resnet50":  # the backbone of MMDetection's `mask-rcnn_r50_fpn`
            stages = dict(num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, norm_eval=True, style="pytorch")
            cfg.model.backbone = dict(type="ResNet", depth=50, norm_cfg=dict(type="BN", requires_grad=True), **stages)
            cfg.model.neck.in_channels = [256, 512, 1024, 2048]
        cfg.model.backbone.init_cfg = cfg.load_from = None
        if self.way == "stock":
            cfg.model.roi_head.mask_head.type = "FCNMaskHead"
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for name, part in model.named_children():
            torch.manual_seed(0)
            if name != "backbone" and hasattr(part, "init_weights"):
                part.init_weights()
        for module in model.modules() if self.way == "stock" else ():
            if hasattr(module, "use_torchvision"):  # RoIAlign, whose stand-in in this package is faster
                module.use_torchvision = True
        return cfg, model


def parse_row(text: str) -> Row:
    """Read a row of the command line.

    Raises:
        ConfigError: A name or a way is unknown, or a file is missing.
    """
    head, _, way = text.partition(":")
    name, _, config = head.partition("=")
    known = {path.name[10:-8]: str(path) for path in sorted((ROOT / "configs").glob("mask_rcnn_*_coco.py"))}
    known |= {"resnet50": known["swin_t"]}
    if not config and name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"There is no detector {name}{hint}: choose from {', '.join(known)}, or give NAME=CONFIG.")
    if way and way not in WAYS:
        raise ConfigError(f"{text}: a detector runs {', '.join(WAYS)}, not {way}.")
    return Row(name, way or _usual_way(name), config or known[name])


def _usual_way(name: str) -> str:
    return "stock" if name.startswith(("resnet50", "swin_", "pvt_")) else "fused"


class Stopwatch:
    """Adds up the seconds of parts; a part inside another one counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    def _book(self) -> None:
        now = timer()
        if self._running:
            self.seconds[self._running[-1]] = self.seconds.get(self._running[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Let the time of the block count for a part."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def go_on(self, name: str) -> None:
        """Let the time from here to the end of the block count for another part."""
        self._book()
        self._running[-1] = name

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Let the time of all calls of a method count for a part."""
        setattr(owner, method, self.part(name)(getattr(owner, method)))


class Evaluation:
    """Evaluates a detector on real images as `tools/test.py` does; a call is one pass from loading to metric."""

    def __init__(self, row: Row, args: argparse.Namespace) -> None:
        cfg, self.model = row.build(args.data_root)
        cfg.test_dataloader.update(num_workers=args.workers, persistent_workers=args.workers > 0)
        cfg.test_dataloader.dataset.indices = args.images or None
        self.loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
        protect_loading(self.loader.dataset, cfg, evaluates=True)
        self.evaluator = Evaluator(cfg.test_evaluator)
        self.evaluator.dataset_meta = self.loader.dataset.metainfo
        self.model.to(args.device).eval()
        _calibrate(self.model, next(iter(self.loader)))
        if row.way == "fused":
            fuse_detector(self.model)
        self.watch, model = Stopwatch(), self.model
        heads = model.roi_head.mask_head
        for part in (
            *((model.backbone, "forward", "backbone"), (model.neck, "forward", "neck")),
            *((model.rpn_head, "forward", "dense head"), (model.rpn_head, "predict_by_feat", "boxes of it")),
            *((model.roi_head, "predict_bbox", "box head"), (model.roi_head, "predict_mask", "mask head")),
            *((head, "predict_by_feat", "mask pasting") for head in _as_list(heads)),
        ):
            self.watch.wrap(*part)

    def __call__(self) -> tuple[int, int]:
        """Evaluate all images once; return how many, and how many instances were found."""
        found, batches = 0, iter(self.loader)
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):  # COCO's API prints its tables
            while True:
                with self.watch.part("data"):
                    batch = next(batches, None)
                if batch is None:
                    break
                with self.watch.part("rest"):
                    samples = self.model.test_step(batch)
                found += sum(len(sample.pred_instances) for sample in samples)
                with self.watch.part("metric"):
                    self.evaluator.process(data_samples=samples, data_batch=batch)
            with self.watch.part("metric"):
                self.evaluator.evaluate(len(self.loader.dataset))
        return len(self.loader.dataset), found


class Training:
    """Forward, backward and optimizer on MMDetection's demo inputs; a call is one step.

    All rows get the same proposals, after their own have been computed: random weights propose at random, and the
    number of boxes that then hit an object would decide which row is slower.
    """

    def __init__(self, row: Row, args: argparse.Namespace) -> None:
        cfg, self.model = row.build(args.data_root)
        self.model.to(args.device).train()
        self.positives, shapes = 0, [(3, *args.sizes[0])] * args.batch
        options = {"num_items": [OBJECTS] * args.batch, "num_classes": 3, "with_mask": True, "device": args.device}
        self.data = self.model.data_preprocessor(demo_mm_inputs(args.batch, shapes, **options), True)
        self.optimizer = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self._share_proposals()
        self.watch = Stopwatch()
        for name in ("backbone", "neck"):
            part = getattr(self.model, name)
            part.register_forward_hook(functools.partial(self._mark_backward, f"{name} backward"))
            self.watch.wrap(part, "forward", name)
        self.watch.wrap(self.model.rpn_head, "loss_and_predict", "RPN")
        self.watch.wrap(self.model.roi_head, "loss", "RoI heads")

    def __call__(self) -> tuple[int, int]:
        """Do one step; return the number of images, and of boxes sampled as positive."""
        self.positives = 0
        with self.watch.part("rest"):
            samples = [sample.clone() for sample in self.data["data_samples"]]
            loss = self.model.parse_losses(self.model.loss(self.data["inputs"], samples))[0]
        with self.watch.part("heads backward"):
            loss.backward()
        with self.watch.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return len(self.data["inputs"]), self.positives

    def _mark_backward(self, name: str, module: nn.Module, inputs: tuple, outputs: Sequence[Tensor]) -> None:
        """Let the rest of backward count for a part as soon as it has the gradients of all its outputs."""
        register_multi_grad_hook([o for o in outputs if o.requires_grad], lambda _: self.watch.go_on(name))

    def _share_proposals(self) -> None:
        generator, proposals = torch.Generator().manual_seed(0), []
        for sample in self.data["data_samples"]:
            extent = torch.tensor(sample.img_shape[::-1]).repeat(2).float()
            near = sample.gt_instances.bboxes.cpu().repeat(NEAR, 1)
            noise = torch.randn(near.shape, generator=generator)
            near = near + noise * (near[:, 2:] - near[:, :2]).repeat(1, 2) * 0.12
            corner = torch.rand(ANYWHERE, 2, generator=generator) * extent[:2] * 0.9
            side = torch.exp(torch.rand(ANYWHERE, 2, generator=generator) * 3.4) * 12
            boxes = torch.cat((near, torch.cat((corner, corner + side), dim=1))).clamp(min=0)
            proposals.append(torch.minimum(boxes, extent).to(sample.gt_instances.bboxes.device))
        predict = self.model.rpn_head.predict_by_feat

        def predict_by_feat(*args: Any, **kwargs: Any) -> list[InstanceData]:
            predict(*args, **kwargs)
            return [InstanceData(bboxes=p.clone(), scores=p[:, 0], labels=p[:, 0].long() * 0) for p in proposals]

        def counted(sample: Callable[..., SamplingResult], *args: Any, **kwargs: Any) -> SamplingResult:
            result = sample(*args, **kwargs)
            self.positives += len(result.pos_priors)
            return result

        self.model.rpn_head.predict_by_feat = predict_by_feat
        for sampler in _as_list(self.model.roi_head.bbox_sampler):
            sampler.sample = functools.partial(counted, sampler.sample)


def _calibrate(model: TwoStageDetector, batch: dict) -> None:
    """Set the score threshold so that a detector with random weights finds as much as a trained one."""
    seen: list[Tensor] = []
    head = _as_list(model.roi_head.bbox_head)[-1]
    hook = head.register_forward_hook(lambda _, inputs, outputs: seen.append(outputs[0].softmax(-1)[:, :-1].flatten()))
    with torch.no_grad():
        model.test_step(batch)
    hook.remove()
    scores = seen[-1].sort(descending=True).values
    model.roi_head.test_cfg.score_thr = float(scores[min(CANDIDATES * len(batch["inputs"]), len(scores) - 1)])


def _as_list(value: object) -> list:
    """Return the stages of a cascade, or the only one."""
    return list(value) if isinstance(value, (list, tuple, nn.ModuleList)) else [value]


_JOB: dict[str, Evaluation | Training] = {}  # of a row's process: what it does, once it was built


def _take_turn(row: Row, mode: str, args: argparse.Namespace, dtype: str) -> dict[str, list[float]] | str:
    """Do one round in a row's process; return what it took, or why there is nothing."""
    logging.disable(logging.WARNING)
    try:
        first = not _JOB
        if first:
            if row.way != "stock":
                keep_memory()
            torch.set_num_threads(args.threads or torch.get_num_threads())
            _JOB["job"] = (Evaluation if mode == "evaluation" else Training)(row, args)
        job, peak = _JOB["job"], None
        done: list[tuple[int, int]] = []
        job.watch.seconds = {}
        start = timer()
        with torch.autocast(args.device, torch.bfloat16, enabled=dtype == "bf16"):
            if first:
                peak = process_peak(lambda: done.append(job()), args.device)
            else:
                done.append(job())
        found = {"seconds": [timer() - start], **{f"seconds: {k}": [v] for k, v in job.watch.seconds.items()}}
        found |= {"images": [done[0][0]], "found": [done[0][1]]}
        return found | ({"memory start": [peak[0]], "memory peak": [peak[1]]} if peak else {})
    except Exception as error:  # whatever a row breaks on is the row's result
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def measure(rows: Sequence[Row], mode: str, args: argparse.Namespace) -> list[Record]:
    """Measure all rows in turn, each in a process of its own that lives through all rounds.

    Rows differ in how their processes handle memory, and peaks are theirs alone.
    """
    if mode == "evaluation":
        setting = f"{args.images or 'all'} images from loading to metric, {args.workers} data workers, {args.device}"
    else:
        size = "x".join(map(str, args.sizes[0]))
        setting = f"{size}, batch {args.batch}: forward, backward, optimizer, {args.device}"
    turns = [(i, dtype) for i in range(len(rows)) for dtype in args.dtypes]
    records = {turn: Record(mode, setting, rows[turn[0]].label, rows[turn[0]].way, turn[1]) for turn in turns}
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in rows]
        for number in range(-args.warmup, args.rounds):
            first = number % len(turns)
            for i, dtype in turns[first:] + turns[:first]:
                record = records[i, dtype]
                if record.note:
                    continue
                # What our tools put into the environment of their processes, before one starts.
                ours = {} if rows[i].way == "stock" else {"GOMP_SPINCOUNT": "10000", **os.environ}
                with mock.patch.dict(os.environ, ours):
                    found = pools[i].submit(_take_turn, rows[i], mode, args, dtype).result()
                if isinstance(found, str):
                    record.note = found
                    continue
                for name, numbers in found.items():
                    if not name.startswith("seconds"):
                        record.quantities[name] = numbers
                    elif number >= 0:
                        record.quantities.setdefault(name, []).extend(numbers)
    return list(records.values())


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, write the samples."""
    parser = make_parser(__doc__, "detectors", rounds=5)
    parser.add_argument("rows", nargs="+", metavar="ROW")
    parser.add_argument("--modes", nargs="+", choices=["evaluation", "training"], default=["evaluation", "training"])
    parser.add_argument("--data-root", help="folder in COCO's layout, whose validation images are taken")
    parser.add_argument("--images", type=int, default=8, help="how many of them; 0 for all")
    parser.add_argument("--workers", type=int, default=0, help="data workers of an evaluation")
    parser.add_argument("--sizes", nargs=1, type=size_of, default=[(512, 512)], help="of images in training")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32"], help="bf16: autocast")
    args = parser.parse_args(argv)
    if "evaluation" in args.modes and not args.data_root:
        raise ConfigError("An evaluation needs real images: give --data-root, or only --modes training.")
    rows = [parse_row(text) for text in args.rows]
    benchmark = begin(args)
    for mode in args.modes:
        finish_table(args, benchmark, measure(rows, mode, args))


if __name__ == "__main__":
    main()
