"""What a load did to every tensor, as one short table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Size

COLUMNS = ("found", "converted", "resized", "new", "missing", "unexpected", "mismatched")


@dataclass
class LoadReport:
    """The names of tensors, by what happened to them.

    A name stands in one of found, new, missing and mismatched (all tensors of the model) or in unexpected.

    Args:
        source: The file.
        target: What was loaded into.
        found: Taken from the file.
        converted: Those found under another name or in another form.
        resized: Those found that were made for another window size.
        new: Left as initialised, because they depend on the number of classes.
        missing: Not in the file.
        unexpected: In the file only, under the file's names.
        mismatched: Shapes in the file and in the model, where they differ.
        allowed: Those missing or unexpected that need not fit.
    """

    source: str
    target: str
    parts: tuple[str, ...]
    found: set[str] = field(default_factory=set)
    converted: set[str] = field(default_factory=set)
    resized: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: dict[str, tuple[Size, Size]] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)

    @property
    def problems(self) -> list[str]:
        """What must not happen silently, each as a short phrase; shapes first, they say most."""
        shapes = [
            f"{name} is {tuple(old)} instead of {tuple(new)}" for name, (old, new) in sorted(self.mismatched.items())
        ]
        missing = [f"{name} is missing" for name in sorted(self.missing - self.allowed)]
        unexpected = [f"{name} is unexpected" for name in sorted(self.unexpected - self.allowed)]
        return shapes + missing + unexpected

    @property
    def size(self) -> int:
        """Tensors of the model."""
        return len(self.found) + len(self.new) + len(self.missing) + len(self.mismatched)

    def __str__(self) -> str:
        rows = [("part", *COLUMNS), *self._rows()]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows]
        lines += list(self._notes())
        return "\n  ".join([f"Loading {self.source} into {self.target}:", *lines])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        known = tuple(f"{part}." for part in self.parts)
        for part in (*self.parts, ""):
            counts = []
            for column in COLUMNS:
                names = getattr(self, column)
                # The last row is of what belongs to no part, such as whatever else the file holds.
                counts.append(sum(n.startswith(f"{part}.") if part else not n.startswith(known) for n in names))
            if any(counts):
                yield (part or ("other" if self.parts else "backbone"), *map(str, counts))

    def _notes(self) -> Iterator[str]:
        for what, names in (
            ("not needed", self.unexpected & self.allowed),
            ("not in the file, left as initialised", self.missing & self.allowed),
            ("left as initialised for other classes", self.new),
        ):
            if names:
                yield f"{what}: {shortened(sorted(names))}"


def shortened(names: list[str], count: int = 3) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
