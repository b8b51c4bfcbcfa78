"""Whether an exported detector finds what the detector finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torchvision.ops import box_iou

BOX = 2e-5  # of the image's longer side
SCORE, MASK = 1e-4, 1e-2  # of probabilities; of the pixels of masks
_STEP = 8  # of 255, by which a pixel's probability may differ: a box less than a pixel wide stretches rounding
# Of the objects: two boxes whose scores or overlaps are equal up to rounding may change places, and the one that is
# kept decides which others are.
STRAYS = 0.02


@dataclass(frozen=True)
class Agreement:
    """How far the objects in an image are from those of the detector itself.

    Attributes:
        size: Height and width of the image, in pixels.
        objects: That the detector found.
        strays: Of these, without an equal one.
        box: The largest difference of the others' corners, in pixels.
        score: That of their scores.
        mask: The part of their masks' pixels whose probabilities differ; 0 where there are no masks.
    """

    size: tuple[int, int]
    objects: int
    strays: int
    box: float
    score: float
    mask: float

    def __str__(self) -> str:
        """For people."""
        same = self.objects - self.strays
        return (
            f"{self.size[0]}×{self.size[1]}: {same} of {self.objects} objects the same, corners within {self.box:.0e} "  # noqa: RUF001
            f"pixels, scores within {self.score:.0e}"
        )


def compare_objects(expected: InstanceData, found: InstanceData, size: tuple[int, int]) -> Agreement:
    """Looks for each expected object among those that were found.

    Masks are probabilities as bytes: a detector that has learned little is nowhere sure on which side of 1/2 it is.
    """
    free = torch.ones(len(found), dtype=torch.bool)
    box = score = mask = 0.0
    missing = 0
    for index in range(len(expected)):
        distances = (found.bboxes - expected.bboxes[index]).abs().amax(1)
        doubts = (found.scores - expected.scores[index]).abs()
        near = (distances <= BOX * max(size)) & (doubts <= SCORE)
        alike = free & near & (found.labels == expected.labels[index])
        if not alike.any():
            missing += 1
            continue
        best = int(torch.where(alike, distances, torch.inf).argmin())
        free[best] = False
        box, score = max(box, float(distances[best])), max(score, float(doubts[best]))
        if "masks" in expected:
            ours, theirs = (one.int() for one in (found.masks[best], torch.as_tensor(expected.masks[index])))
            mask = max(mask, float(((ours - theirs).abs() > _STEP).sum() / (theirs > 0).sum().clamp(min=1)))
    return Agreement(size, len(expected), max(missing, int(free.sum())), box, score, mask)


def found_again(expected: InstanceData, found: InstanceData) -> int:
    """How many of the expected objects were found at all: the same class, boxes that overlap by half.

    For programs that round on purpose.
    """
    if not len(expected) or not len(found):
        return 0
    overlaps = box_iou(expected.bboxes, found.bboxes)
    overlaps = torch.where(expected.labels[:, None] == found.labels[None], overlaps, 0.0)
    return int((overlaps.amax(1) > 0.5).sum())
