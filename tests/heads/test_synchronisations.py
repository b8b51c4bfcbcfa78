"""What makes a processor wait for a GPU in heads: our code adds nothing to MMDetection's but what is listed here.

Seen on a CPU, by the calls: each of these reads numbers, which a GPU has to have computed by then.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_detectors import DETECTORS as SMALL
from small_detectors import build_detector, model_of, training_sample
from torch.overrides import TorchFunctionMode

import localvit_det

PACKAGE = Path(localvit_det.__file__).parent
READING = {"item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
READING |= {"masked_select", "unique", "argwhere", "__array__"}
SIZE = 64
MODELS = {name: SMALL[name] for name in ("mask_rcnn", "cascade", "retinanet")}
MODELS["rtmdet"] = lambda: model_of("rtmdet_ins_shuffle_t_coco")
# What runs on a CPU alone, and why: on a GPU mmcv's and torchvision's own kernels run in its place.
ON_A_CPU = {
    ("ops/roi_align.py", "roi_align_levels"),  # called where `input.is_cpu`, in ops/mmcv_ops.py
    ("ops/roi_align.py", "_axis"),
    ("ops/roi_align.py", "_entries"),
    ("ops/mmcv_ops.py", "_apart"),  # `boxes.is_cpu`
}
DETECTORS = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


class Reads(TorchFunctionMode):
    """Counts, by file and function of this package, calls that read numbers of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: Counter[tuple[str, str]] = Counter()
        self.all = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if name in READING or by_mask:
            self.all += 1
            frame = sys._getframe(1)
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(PACKAGE):
                self.ours[str(file.relative_to(PACKAGE)), frame.f_code.co_name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_predictions_wait_for_nothing_of_ours(name):
    net = build_detector(MODELS[name]())
    for mode in ("loss", "predict"):
        with Reads() as reads, torch.set_grad_enabled(mode == "loss"):
            net.train(mode == "loss")
            assert getattr(net, mode)(torch.rand(1, 3, SIZE, SIZE), [training_sample(SIZE)])
        assert reads.all  # MMDetection's own: they are seen
        assert not set(reads.ours) - ON_A_CPU


def test_a_read_in_this_package_is_seen():
    from localvit_det.engine.non_finite import first_non_finite

    with Reads() as reads:
        first_non_finite(torch.nn.Linear(2, 2))
    assert reads.ours == {("engine/non_finite.py", "first_non_finite"): 1}
