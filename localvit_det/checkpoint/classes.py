"""Which tensors of a head depend on the number of classes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Size, nn


def class_counts(module: nn.Module, name: str, old: Size, new: Size) -> set[tuple[int, int]]:
    """The class counts (of the file, of the model) that explain why a tensor has another shape.

    A head has k numbers per class, with or without one more class for the background, in its first dimension:
    k = 1 for class scores, 4 for boxes of each class, one per anchor in one-stage detectors.

    Args:
        module: The model.
        name: Of the tensor in the model.
        old: Its shape in the file.
        new: Its shape in the model.
    """
    wanted = _num_classes(module, name)
    if not wanted or len(old) != len(new) or old[1:] != new[1:]:
        return set()
    counts = set()
    for background in (0, 1):
        per_class, rest = divmod(new[0], wanted + background)
        if not rest and old[0] % per_class == 0 and old[0] // per_class > background:
            counts.add((old[0] // per_class - background, wanted))
    return counts


def common_class_counts(module: nn.Module, shapes: Iterable[tuple[str, Size, Size]]) -> tuple[int, int] | None:
    """The one pair of class counts that explains all these differences; None if there is none."""
    explanations = [class_counts(module, *entry) for entry in shapes]
    return min(set.intersection(*explanations), default=None) if explanations else None


def _num_classes(module: nn.Module, name: str) -> int | None:
    """`num_classes` of the innermost head that a tensor belongs to."""
    found = None
    for child in name.split("."):
        module = getattr(module, child, None)
        if not isinstance(module, nn.Module):
            break
        found = getattr(module, "num_classes", found)
    return found if isinstance(found, int) else None
