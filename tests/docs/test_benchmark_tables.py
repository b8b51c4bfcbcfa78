"""The tables in the documentation are the benchmark's own output."""

import json
import re
import runpy
from typing import ClassVar

import pytest
from conftest import REPOSITORY

from benchmarking.timing import quartiles
from localvit_det.errors import UserError

pytestmark = pytest.mark.measuring

DOCUMENTS = sorted(REPOSITORY.glob("docs/benchmark/*/benchmark.json"))
OF_BACKBONES = [file for file in DOCUMENTS if "gemm" in json.loads(file.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("file", OF_BACKBONES, ids=lambda file: file.parent.name)
def test_table_follows_from_the_samples(file):
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    table = file.with_name("benchmark.md").read_text(encoding="utf-8")
    timed = [result for result in results if result["samples"]]  # not those that failed
    assert len(timed) > 1
    for result in timed:
        found = quartiles(result["samples"])
        latency = f"{found.median * 1e3:.1f} ({found.low * 1e3:.1f} to {found.high * 1e3:.1f})"
        assert f"| {result['row']} | {result['dtype']} | {result['execution']} | {latency} |" in table


def test_summary_follows_from_the_samples():
    runpy.run_path(str(REPOSITORY / "tools/benchmark_summary.py"))["main"](["--check"])


def test_every_benchmark_stands_on_the_page():
    page = (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(benchmark/(\w+)/benchmark\.md\)", page)) == {file.parent.name for file in DOCUMENTS}


class TestSummary:
    ROW: ClassVar = {"size": [64, 96], "dtype": "fp32", "execution": "eager"}

    @pytest.fixture
    def summary(self, tmp_path, monkeypatch):
        """Writes one benchmark and returns the rows that the summary makes of it, without the head."""
        module = runpy.run_path(str(REPOSITORY / "tools/benchmark_summary.py"))
        column = module["Column"]
        columns = (column("speed", "one"), column("memory", "one", memory=True))
        monkeypatch.setitem(module["summary"].__globals__, "COLUMNS", columns)

        def summarize(*results: dict) -> list[str]:
            (tmp_path / "one").mkdir()
            (tmp_path / "one/benchmark.json").write_text(json.dumps({"results": [self.ROW | r for r in results]}))
            return module["summary"](tmp_path).splitlines()[2:]

        return summarize

    def test_speed_and_memory_over_the_baseline(self, summary):
        rows = summary(
            {"row": "swin_t", "samples": [2.0, 4.0, 9.0], "memory": {"start": 100, "peak": 300}},
            {"row": "a", "samples": [1.0, 2.0, 3.0], "memory": {"start": 100, "peak": 150}},
            {"row": "failed", "samples": [], "memory": None},
            {"row": "small", "size": [8, 8], "samples": [1.0], "memory": None},
            {"row": "bf16", "dtype": "bf16", "samples": [1.0], "memory": None},
        )
        assert rows == ["| swin_t | 1.00 | 1.00 |", "| a | 2.00 | 0.25 |"]

    def test_without_the_baseline(self, summary):
        with pytest.raises(UserError, match="no row swin_t"):
            summary({"row": "a", "samples": [1.0], "memory": None})
