"""The tables of the docs follow from the samples in docs/benchmarks.csv."""

import re

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmarks import tables
from benchmarks.results import Benchmark, Record, read, write
from localvit_det.errors import UserError

pytestmark = pytest.mark.measuring

SETTING = "64x96, batch 2, cpu"


def record(row: str, seconds: list[float], mode: str = "inference", dtype: str = "fp32", **quantities: float) -> Record:
    named = {name.replace("_", " "): [value] for name, value in quantities.items()}
    return Record(mode, SETTING, row, "eager", dtype, ({"seconds": seconds} if seconds else {}) | named)


def test_pages_follow_from_the_samples():
    tables.main(["--check"])


def test_a_figure_by_hand():
    """Of the samples as they are in the file, without any code of the benchmarks."""
    lines = (REPOSITORY / "docs/benchmarks.csv").read_text(encoding="utf-8").splitlines()
    start = 'inference,inference,"896x1344, batch 1, cpu",shuffle_t,eager,fp32,seconds,'
    (line,) = (line for line in lines if line.startswith(start))
    low, median, high = 1e3 * np.percentile([float(s) for s in line.rpartition(",")[2].split()], (25, 50, 75))
    page = (REPOSITORY / "docs/benchmark_tables.md").read_text(encoding="utf-8")
    assert f"| shuffle_t | eager | fp32 | {median:.1f} ({low:.1f} to {high:.1f}) |" in page


def test_decision_by_hand():
    """Of the samples and tables as they are in the files, without any code of the benchmarks."""
    lines = (REPOSITORY / "docs/benchmarks.csv").read_text(encoding="utf-8").splitlines()

    def seconds(benchmark: str, row: str) -> float:
        (line,) = (one for one in lines if one.startswith(f"{benchmark},") and f",{row}," in one and ",seconds," in one)
        return float(np.median([float(number) for number in line.rpartition(",")[2].split()]))

    page = (REPOSITORY / "docs/which_one.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `dwnet_t`")]
    cells, sizes = ([cell.strip() for cell in row.split("|")[1:]] for row in rows)
    for cell, benchmark in ((cells[1], "detectors"), (cells[2], "inference_xeon"), (cells[3], "inference_msg_twins")):
        assert cell == f"{seconds(benchmark, 'swin_t') / seconds(benchmark, 'dwnet_t'):.2f}"
    mean, spread = re.search(
        r"^\| DWNet \| ([\d.]+) \| ([^|]+) \|",
        (REPOSITORY / "docs/families.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    ).groups()
    assert sizes[3] == f"{mean} ({spread})"
    assert "not reproduced here" in page


@pytest.mark.parametrize(("mode", "roofline"), [("inference", "1.00"), ("training", "0.33")])
def test_ratios(mode, roofline):
    """A training step multiplies three times."""
    a = record("a", [4.0, 2.0, 3.0], mode, MACs=6000, saved_bytes=2**20, memory_start=2**20, memory_peak=3 * 2**20)
    b = record("b", [1.0, 1.5, 2.0], mode, "bf16", MACs=3000, saved_bytes=2**18)
    c = Record(mode, SETTING, "c", "eager", "fp32", note="fails: RuntimeError")
    gemm = [record(tables.GEMM, [1.0], mode, dtype, MACs=macs) for dtype, macs in (("fp32", 2000), ("bf16", 8000))]
    lines = tables.table([a, b, c, *gemm]).splitlines()
    training = mode == "training"
    first = f"| a | eager | fp32 | 3000.0 (2500.0 to 3500.0) | 0.67 | 1.00 | {roofline} | 3 (2) |"
    assert lines[4] == first + (" 1.0 | 1.00 |" if training else "")
    assert "| 1.33 | 2.00 | 4.00 | - |" in lines[5] or training
    assert not training or lines[5].endswith("| 1.33 | 2.00 | 1.33 | - | 0.2 | 0.25 |")
    assert lines[-1] == "- c fp32: fails: RuntimeError"


def test_file_keeps_everything(tmp_path):
    one = Benchmark({"device": "a, b", "load": "0.5"}, [record("x", [0.1234567, 2.0], memory_peak=123456789.0)])
    one.records[0].note = 'says "no", twice'
    write(tmp_path / "out.csv", "first", one)
    write(tmp_path / "out.csv", "second", Benchmark({"device": "c"}))
    write(tmp_path / "out.csv", "first", one)
    assert read(tmp_path / "out.csv") == {"first": one, "second": Benchmark({"device": "c"})}


class TestSummary:
    def summarize(self, monkeypatch, *records: Record) -> list[str]:
        columns = (tables.Column("speed", "one"), tables.Column("memory", "one", memory=True))
        monkeypatch.setattr(tables, "COLUMNS", columns)
        return tables.summary({"one": Benchmark({}, list(records))}).splitlines()[2:]

    def test_speed_and_memory_over_the_baseline(self, monkeypatch):
        rows = self.summarize(
            monkeypatch,
            record("swin_t", [2.0, 4.0, 9.0], memory_start=100, memory_peak=300),
            record("a", [1.0, 2.0, 3.0], memory_start=100, memory_peak=150),
            record("failed", []),
            record("bf16", [1.0], dtype="bf16"),
        )
        assert rows == ["| swin_t | 1.00 | 1.00 |", "| a | 2.00 | 0.25 |"]

    def test_without_the_baseline(self, monkeypatch):
        with pytest.raises(UserError, match="no row swin_t"):
            self.summarize(monkeypatch, record("a", [1.0]))
