"""The tables in the documentation are the benchmark's own output."""

import json
import re
from pathlib import Path

import pytest

from benchmarking.timing import quartiles

pytestmark = pytest.mark.measuring

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(ROOT.glob("docs/benchmark/*/benchmark.json"))
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


def test_readme_table_is_a_piece_of_the_benchmarks():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in readme if "| eager |" in line]
    measured = (ROOT / "docs/benchmark/inference/benchmark.md").read_text(encoding="utf-8")
    assert len(rows) > 5
    assert "\n".join(rows) in measured


PAIRS = [
    ("shuffle_t", "official_shuffle_t"),
    ("shuffle_t", "swin_t"),
    ("gg_t", "swin_t"),
    ("dwnet_t", "official_dwnet_t"),
    ("dwnet_t", "swin_t"),
    ("ddwnet_t", "official_ddwnet_t"),
]


def test_ratios_of_repeated_runs_follow_from_their_samples():
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\d\d:\d\d\]\((benchmark/\w+)/benchmark\.md\) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for folder, ratios in rows:
        results = json.loads((ROOT / "docs" / folder / "benchmark.json").read_text(encoding="utf-8"))["results"]
        median = {r["row"]: quartiles(r["samples"]).median for r in results if r["size"] == [896, 1344]}
        assert ratios.split(" | ") == [f"{median[other] / median[ours]:.2f}" for ours, other in PAIRS]
