"""Heads on a GPU without one: losses, gradients and predictions, and what makes a processor wait for it.

MMDetection's own code waits in many places. What this package adds is listed here, and on docs/architecture.md.
"""

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from conftest import REPOSITORY
from fake_gpu import backward
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from numbered_gpu import NumberedGpu, numbered_gpu
from small_detectors import SURER, build_detector, model_of, shrink, training_sample
from torch import Tensor, nn

from localvit_det import patches
from localvit_det.config import load_config
from localvit_det.engine.non_finite import first_non_finite
from localvit_det.fused import fused_copy

SIZE = 64
CUT = ("heads.py", "_cut")
SAMPLE = ("ops/mmcv_ops.py", "ms_deform_attn_forward")


def shrunk(name: str) -> dict:
    return shrink(load_config(REPOSITORY / f"configs/{name}.py")).model


MODELS: dict[str, Callable[[], dict]] = {
    "Mask R-CNN": lambda: model_of("mask_rcnn_shuffle_nano_shapes"),
    "Cascade Mask R-CNN": lambda: model_of("cascade_mask_rcnn_shuffle_t_3x_coco"),
    "Faster R-CNN": lambda: model_of("faster_rcnn_shuffle_t_coco"),
    "RetinaNet": lambda: model_of("retinanet_shuffle_t_coco"),
    "Panoptic FPN": lambda: model_of("panoptic_fpn_shuffle_nano_shapes"),
    "RTMDet-Ins": lambda: model_of("rtmdet_ins_shuffle_t_coco"),
    "DINO": lambda: shrunk("dino_dwnet_t_coco"),
    "Mask2Former": lambda: shrunk("mask2former_dwnet_t_coco"),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
# What waits in this package, in losses and gradients and in predictions of one image with two objects: masks go to the
# GPU, one copy for each head. Where MMCV is not compiled, deformable attention reads the sizes of feature maps.
LOSSES = {"Mask R-CNN": {CUT: 1}, "Cascade Mask R-CNN": {CUT: 3}, "Panoptic FPN": {CUT: 1}}
LOSSES |= {"DINO": {SAMPLE: 6}, "Mask2Former": {SAMPLE: 2}}  # layers, forward and backward
PREDICTIONS = {"DINO": {SAMPLE: 3}, "Mask2Former": {SAMPLE: 1}}

WAITING = (REPOSITORY / "docs/architecture.md").read_text().partition("**Waiting.**")[2].partition("## ")[0]
FEWER = 6  # than with MMDetection's mask head


def detector(name: str, **parts: str) -> nn.Module:
    """Build a detector that is sure enough of itself to find something.

    Args:
        name: In `MODELS`.
        parts: Other types of the parts of its RoI head.
    """
    cfg = MODELS[name]()
    for part, kind in parts.items():
        cfg["roi_head"][part]["type"] = kind
    return build_detector(cfg, (*SURER, "rtm_cls.0.weight"))


def sample() -> DetDataSample:
    torch.manual_seed(0)
    made = training_sample(SIZE)
    made.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 4, (1, SIZE, SIZE)))
    return made


def losses_of(net: nn.Module, image: Tensor, target: DetDataSample) -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = net.train().loss(image, [target])
    listed = {name: value if isinstance(value, list) else [value] for name, value in found.items() if "loss" in name}
    return {f"{name}{i}": value for name, values in listed.items() for i, value in enumerate(values)}


@torch.no_grad()
def prediction(net: nn.Module, image: Tensor, target: DetDataSample) -> dict[str, Tensor]:
    found = net.eval().predict(image, [target])[0]
    if "pred_panoptic_seg" in found:
        return {"panoptic": found.pred_panoptic_seg.sem_seg}
    return {name: found.pred_instances[name] for name in found.pred_instances.keys()}  # noqa: SIM118 - no dict


def ours(gpu: NumberedGpu) -> dict[tuple[str, str], int]:
    """Return what waited in this package; a compiled NMS waits as well for the boxes that it keeps."""
    found: Counter[tuple[str, str]] = Counter()
    for (package, file, function, operator), count in gpu.waits.items():
        if package == "localvit_det" and operator != "nms":
            found[file, function] += count
    return dict(found)


def assert_close(there: dict[str, Tensor], here: dict[str, Tensor], share: float, scale: float = 0.0) -> None:
    assert there.keys() == here.keys()
    for key, expected in here.items():
        assert there[key].shape == expected.shape
        difference = (there[key].cpu().double() - expected.double()).norm()
        assert difference <= share * expected.double().norm() + scale, key


@pytest.mark.parametrize("name", NAMES)
def test_losses_gradients_and_predictions(name):
    """They are those of a CPU, no operator mixes devices, and nothing but what is listed waits in this package."""
    net = detector(name)
    moved, image = copy.deepcopy(net), torch.rand(1, 3, SIZE, SIZE)
    found = prediction(net, image, sample())
    assert len(next(iter(found.values())))
    losses = losses_of(net, image, sample())
    sum(loss.sum() for loss in losses.values()).backward()
    grads = {key: p.grad for key, p in net.named_parameters() if p.grad is not None}
    targets = [sample(), sample(), sample()]
    with numbered_gpu(moved) as gpu:
        image, *targets = [x.to("cuda") for x in (image, *targets)]
        waits = []
        for variant, target in zip((moved, fused_copy(moved)), targets, strict=False):
            gpu.waits.clear()
            there = prediction(variant, image, target)
            assert ours(gpu) == PREDICTIONS.get(name, {})
            waits.append(gpu.waits.total())
            assert_close(there, found, 1e-2)  # a pixel of a mask may change sides
        assert waits[0] == waits[1] > 0
        gpu.waits.clear()
        there = losses_of(moved, image, targets[-1])
        assert_close(there, losses, 1e-4, 1e-5)
        theirs = backward([*there.values()])
        assert ours(gpu) == LOSSES.get(name, {})
        there = {key: theirs[p] for key, p in moved.named_parameters() if p in theirs}
        # Biases before norms have rounding only.
        assert_close(there, grads, 1e-3, 1e-4 * float(torch.stack([x.norm() for x in grads.values()]).norm()))


def test_the_mask_head_waits_less_than_mmdetections():
    """Of the same losses under mixed precision, with MMDetection's head and without our coordinates."""
    totals = []
    for head in ("MemoryEfficientFCNMaskHead", "FCNMaskHead"):
        own = contextlib.nullcontext() if head.startswith("Memory") else patches.without("coordinates")
        net = detector("Mask R-CNN", mask_head=head)
        with own, numbered_gpu(net) as gpu, torch.autocast("cuda", torch.float16):
            losses_of(net, torch.rand(1, 3, SIZE, SIZE).to("cuda"), sample().to("cuda"))
        totals.append(gpu.waits.total())
    assert totals[1] - totals[0] == FEWER


def test_the_page_says_so():
    rows = re.findall(r"^\| (\S.*?) \| (\d.*) \|$", WAITING, flags=re.MULTILINE)
    assert [name for name, _ in rows] == [*MODELS]
    for name, cells in rows:
        alone, *step, of_predictions, found = (
            [int(n) for n in re.findall(r"\d+", cell)] for cell in cells.split(" | ")
        )
        losses, predictions = LOSSES.get(name, {}), PREDICTIONS.get(name, {})
        assert step == [
            [alone[0] - FEWER * losses.get(CUT, 0), *([alone[0] + losses[SAMPLE]] if SAMPLE in losses else [])]
        ]
        assert found == [*of_predictions, *(of_predictions[0] + count for count in predictions.values())]


def test_what_waits_is_seen():
    with numbered_gpu() as gpu:
        x = torch.arange(4.0, device="cuda")
        waits = [x.sum().item, x.tolist, x.nonzero, x.cpu, x.unique, lambda: bool(x.any()), lambda: x[x > 1]]
        waits += [lambda: x[torch.tensor([0, 1])], lambda: x.new_tensor([1.0]), lambda: x.repeat_interleave(x.long())]
        for count, wait in enumerate(waits, 1):
            wait()
            assert gpu.waits.total() == count
        x[x > 1] = 0  # of a number: no index is made
        torch.zeros(3, device="cuda", dtype=x.dtype) + torch.tensor(1.0)
        assert gpu.waits.total() == len(waits)
        for mix in (lambda: x + torch.zeros(4), lambda: torch.zeros(4)[x > 1], lambda: torch.cat((x, torch.zeros(1)))):
            with pytest.raises(RuntimeError, match="on the GPU"):
                mix()


def test_a_read_in_this_package_is_seen():
    net = nn.Linear(2, 2)
    with numbered_gpu(net) as gpu:
        assert first_non_finite(net) is None
    assert ours(gpu) == {("engine/non_finite.py", "first_non_finite"): 1}
