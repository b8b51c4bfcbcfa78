"""Who computes COCO's numbers: faster-coco-eval (C++) or pycocotools, with the same results."""

from __future__ import annotations

import functools

from mmengine.logging import print_log
from packaging.version import Version
from pycocotools.cocoeval import COCOeval

from ..errors import RequirementError
from ..requirements import require_package

_PACKAGE = "faster-coco-eval"


def coco_evaluator(fast: bool | None = None) -> type:
    """Return an evaluator with the interface of `COCOeval`.

    Args:
        fast: Whether it is faster-coco-eval's; by default where that can be imported.
    """
    if fast is False:
        return COCOeval
    try:
        return fast_evaluator()
    except ImportError as error:
        if fast:
            raise
        _report_slow(str(error))
        return COCOeval


@functools.cache
def _report_slow(reason: str) -> None:
    print_log(
        f"pycocotools evaluates, which takes longer ({reason}): `pip install '{_PACKAGE}>=1.8,<2'` gives the same "
        "numbers sooner.",
        "current",
    )


def check_fast_eval() -> None:
    """Check that faster-coco-eval is there, before an inference of hours rather than after it.

    Raises:
        RequirementError: It is not installed, or cannot be used.
    """
    require_package("faster_coco_eval", "FastCocoMetric (--fast-eval)", _PACKAGE)
    try:
        fast_evaluator()
    except ImportError as error:
        raise RequirementError(f"FastCocoMetric (--fast-eval) cannot be used: {error}.") from error


@functools.cache
def fast_evaluator() -> type:
    """Return faster-coco-eval's evaluator, with the averages of pycocotools.

    Raises:
        ImportError: It is not installed, or of another version than those that were compared.
    """
    from faster_coco_eval import COCOeval_faster, __version__

    if not Version("1.8") <= Version(__version__) < Version("2"):
        raise ImportError(f"{_PACKAGE} {__version__} is none of {_PACKAGE}>=1.8,<2")

    class Evaluator(COCOeval_faster):
        def __init__(self, coco_gt: object, coco_dt: object, iou_type: str) -> None:
            super().__init__(coco_gt, coco_dt, iou_type, print_function=print)  # as pycocotools does

        def _summarize(
            self, ap: int = 1, iouThr: float | None = None, areaRng: str = "all", maxDets: int = 100
        ) -> float:
            # pycocotools takes AP, unlike every other number, over 100 detections, whatever the largest limit is
            # (MMDetection's is 1000), and says -1 where 100 is not among the limits.
            if ap == 1 and iouThr is None and areaRng == "all":
                if 100 not in self.params.maxDets:
                    return -1.0
                maxDets = 100
            return super()._summarize(ap, iouThr, areaRng, maxDets)

    return Evaluator
