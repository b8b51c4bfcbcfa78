"""What was measured, and the ratios that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite

from .memory import Peak
from .roofline import roofline_seconds
from .timing import quartiles


@dataclass
class Result:
    """One variant of a row at one setting; None where something was not or could not be measured.

    Attributes:
        row: Label of the row.
        error: Largest relative difference from the row's own eager fp32 output.
        multiply_adds: Of the forward pass of the whole batch.
        samples: Latencies in seconds, in the order of the rounds.
        saved_bytes: Kept for backward; parameters and buffers not counted.
        note: Why numbers are missing.
    """

    row: str
    dtype: str
    execution: str
    parameters: int | None = None
    multiply_adds: int | None = None
    error: float | None = None
    tolerance: float | None = None
    samples: list[float] = field(default_factory=list)
    saved_bytes: int | None = None
    memory: Peak | None = None
    note: str = ""


@dataclass
class Table:
    """All results that share mode, size, batch and device, and were timed in the same rounds.

    Attributes:
        gemm: Samples of one matrix product by dtype, in seconds.
        gemm_multiply_adds: Of one matrix product.
    """

    mode: str
    size: tuple[int, int]
    batch: int
    device: str
    results: list[Result]
    gemm: dict[str, list[float]]
    gemm_multiply_adds: int

    def rate(self, dtype: str) -> float:
        """Multiply-adds per second of the matrix product."""
        return self.gemm_multiply_adds / quartiles(self.gemm[dtype]).median

    def records(self) -> list[dict[str, object]]:
        """The results with all that follows from them, as they stand in the JSON file."""
        first = self.results[0]
        return [self._record(result, first) for result in self.results]

    def _record(self, result: Result, first: Result) -> dict[str, object]:
        latency = quartiles(result.samples) if result.samples else None
        first_latency = quartiles(first.samples).median if first.samples else None
        roofline = None
        if result.multiply_adds and result.dtype in self.gemm:
            roofline = roofline_seconds(result.multiply_adds, self.rate(result.dtype), self.mode)
        return {
            **asdict(result),
            # JSON has no infinity; `note` tells it.
            "error": result.error if result.error is not None and isfinite(result.error) else None,
            "mode": self.mode,
            "size": list(self.size),
            "batch": self.batch,
            "device": self.device,
            "latency": asdict(latency) if latency else None,
            "images_per_second": self.batch / latency.median if latency else None,
            "roofline": roofline,
            "speed_to_first": _ratio(first_latency, latency and latency.median),
            "time_to_roofline": _ratio(latency and latency.median, roofline),
            "saved_to_first": _ratio(result.saved_bytes, first.saved_bytes),
            "peak_to_first": _ratio(result.memory and result.memory.peak, first.memory and first.memory.peak),
        }


def failed(results: Sequence[Result]) -> list[Result]:
    """Those that ran and gave other outputs than their own eager fp32 network."""
    return [r for r in results if r.error is not None and r.tolerance is not None and not r.error <= r.tolerance]


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
