"""The benchmark: that it counts, checks and divides right. What it measures is not for tests."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import nn

from benchmarking.complexity import count_multiply_adds
from benchmarking.memory import Peak
from benchmarking.operators import measure_inhomogeneous, operator_table, unfold_form
from benchmarking.report import table
from benchmarking.results import Result, Table
from benchmarking.roofline import Gemm
from benchmarking.rows import make_rows
from benchmarking.steps import Setting, Step, Variant, relative_error, still
from benchmarking.stopwatch import Stopwatch
from benchmarking.timing import quartiles, time_interleaved
from localvit_det.datasets.shapes import make_shapes
from localvit_det.errors import ConfigError
from localvit_det.ops import inhomogeneous_conv

pytestmark = pytest.mark.measuring

OFFICIAL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.Dropout(0.5)

    def forward(self, x):
        return {"maps": [self.drop(self.norm(self.conv(x)))]}

    def fuse(self):
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt() * self.factor
        self.conv.weight.data *= scale[:, None, None, None]
        self.conv.bias = nn.Parameter(self.norm.bias - self.norm.running_mean * scale)
        self.norm = nn.Identity()
        return self

class OnlySquares(Net):
    def forward(self, x):
        assert x.shape[-1] == x.shape[-2], "not a square"
        return super().forward(x)

good = Net
only_squares = OnlySquares
def wrong_fuse(): return Net(factor=1.01)
"""


@pytest.fixture
def official(tmp_path) -> Path:
    file = tmp_path / "official.py"
    file.write_text(OFFICIAL)
    return file


def benchmark(out: Path, *arguments: object) -> dict:
    """Runs the tool in this process and returns its JSON."""
    main = runpy.run_path(str(REPOSITORY / "tools/benchmark.py"))["main"]
    main([*map(str, arguments), "--rounds", "3", "--out", str(out)])
    return json.loads((out / "benchmark.json").read_text(), parse_constant=lambda name: pytest.fail(name))


class TestTiming:
    def test_rounds_are_interleaved_and_the_order_moves_on(self):
        order: list[str] = []
        runs = [lambda name=name: order.append(name) for name in "abc"]
        samples = time_interleaved(runs, rounds=3, warmup=0)
        assert "".join(order) == "abcbcacab"
        assert [len(times) for times in samples] == [3, 3, 3]

    def test_warmup_does_not_count(self):
        calls: list[int] = []
        samples = time_interleaved([lambda: calls.append(1)], rounds=2, warmup=3)
        assert (len(calls), len(samples[0])) == (5, 2)

    def test_quartiles(self):
        found = quartiles([5.0, 1.0, 2.0, 4.0, 3.0])
        assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)

    def test_samples_belong_to_their_run(self):
        matrix = torch.ones(400, 400)
        short, long = time_interleaved([lambda: None, lambda: [matrix @ matrix for _ in range(5)]], rounds=5)
        assert np.median(short) < np.median(long)


def fake_table(mode: str = "inference") -> Table:
    results = [
        Result("a", "fp32", "eager", 10, 6_000, 1e-6, 1e-4, [4.0, 2.0, 3.0], 100, Peak(5, 50)),
        Result("b", "bf16", "eager", 10, 3_000, 1e-3, 2e-2, [1.0, 1.5, 2.0], 25, Peak(5, 20)),
        Result("c", "fp32", "eager", note="fails: RuntimeError"),
    ]
    return Table(mode, (64, 96), 2, "cpu", results, {"fp32": [0.5, 1.0, 2.0], "bf16": [0.25, 0.5, 0.25]}, 2_000)


class TestRatios:
    def test_inference(self):
        a, b, c = fake_table().records()
        assert a["latency"] == {"median": 3.0, "low": 2.5, "high": 3.5}
        assert a["images_per_second"] == pytest.approx(2 / 3)
        assert a["roofline"] == 3.0  # 6000 multiply-adds at 2000 a second
        assert (a["speed_to_first"], a["time_to_roofline"], a["saved_to_first"], a["peak_to_first"]) == (1, 1, 1, 1)
        assert b["roofline"] == 3_000 / 8_000  # at the rate of its own type
        assert b["speed_to_first"] == 2.0
        assert b["time_to_roofline"] == 4.0
        assert (b["saved_to_first"], b["peak_to_first"]) == (0.25, 0.4)
        assert c["latency"] is c["speed_to_first"] is c["roofline"] is None

    def test_a_training_step_multiplies_three_times(self):
        assert fake_table("training").records()[0]["roofline"] == 9.0

    def test_table_shows_them(self):
        lines = table(fake_table("training")).splitlines()
        first = "| a | fp32 | eager | 3000.0 (2500.0 to 3500.0) | 0.67 | 1.00 | 0.33 | 0 (0) | 0.0 | 1.00 |"
        assert lines[4] == first
        assert "| 2.00 | 1.33 |" in lines[5]
        assert lines[-1] == "- c fp32: fails: RuntimeError"

    def test_gemm_counts_what_it_computes(self):
        gemm = Gemm("fp32", "cpu")
        assert gemm.multiply_adds == count_multiply_adds(gemm) > 0


class TestCheck:
    def test_relative_error(self):
        expected = [torch.ones(4), torch.full((4,), 10.0)]
        assert relative_error([torch.ones(4), torch.full((4,), 10.5)], expected) == pytest.approx(0.05)
        assert relative_error([torch.ones(4)], expected) == float("inf")
        assert relative_error([torch.full((4,), torch.nan), expected[1]], expected) == float("inf")

    def test_still_lasts_as_long_as_it_should(self):
        net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Linear(3, 3))
        with still(net):
            assert [module.training for module in net] == [False, False, True]
        assert all(module.training for module in net)

    @pytest.mark.parametrize("row", make_rows(["dwnet_t"], with_cp=True), ids=lambda row: row.label)
    def test_training_step_leaves_no_gradients(self, row):
        step = Step(Variant(row, "fp32", "eager"), Setting("training", (32, 64), 2, "cpu"))
        seen = []
        parameter = next(step.net.parameters())
        parameter.register_hook(lambda gradient: seen.append(gradient.norm()))
        step()
        assert seen[0] > 0
        assert parameter.grad is None


class TestRows:
    def test_order_and_versions(self, official):
        rows = make_rows(["off", "dwnet_t"], [f"more={official}:good", f"off={official}:good"], [], True)
        ours = ["dwnet_t", "dwnet_t (recompute_activations=False)", "dwnet_t (with_cp)"]
        labels = ["off", "off (channels-last)", *ours, "more", "more (channels-last)"]
        assert [row.label for row in rows] == labels

    @pytest.mark.parametrize("name", ["gg_t", "swin_t", "svt_s", "torchvision_swin_t", "timm_swin_t", "timm_svt_s"])
    def test_named_networks_take_images_of_any_size(self, name):
        if name.startswith("timm"):
            pytest.importorskip("timm")
        step = Step(Variant(make_rows([name])[0], "fp32", "eager"), Setting("inference", (72, 100), 1, "cpu"))
        assert (512 if "svt" in name else 768) in step.forward()[-1].shape

    def test_same_weights_each_time(self, official):
        row = make_rows([], [f"off={official}:good"])[0]
        first, second = row.build().state_dict(), row.build().state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(first["norm.running_var"], torch.ones(8))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((["shufle_t"],), "shuffle_t"),
            (([], ["off"]), "NAME=FILE.py:FUNCTION"),
            (([],), "Name the backbones"),
        ],
    )
    def test_mistakes(self, arguments, words):
        with pytest.raises(ConfigError, match=words):
            make_rows(*arguments)

    def test_official_file_or_function_missing(self, official):
        for source in (f"{official}x:good", f"{official}:godo"):
            with pytest.raises(ConfigError, match=source.rpartition(":")[2] if "godo" in source else "does not exist"):
                make_rows([], [f"off={source}"])[0].build()


class TestTool:
    @pytest.fixture(autouse=True)
    def _small_product(self, monkeypatch):
        monkeypatch.setattr("benchmarking.roofline._HIDDEN", 64)  # slow in bf16 where the processor does not know it

    def test_document_table_and_failing_row(self, official, tmp_path, capsys):
        found = benchmark(
            tmp_path / "out", "--official", f"off={official}:good", "--official",
            f"square={official}:only_squares", "--sizes", "64x64", "32x64", "--dtypes", "fp32", "bf16", "--no-memory",
        )  # fmt: skip
        assert {"device", "threads", "versions", "command", "load"} <= found["environment"].keys()
        assert len(found["results"]) == 2 * 2 * 2 * 2  # modes, sizes, rows, types
        for record in found["results"]:
            wide_square = record["row"] == "square" and record["size"] == [32, 64]
            assert wide_square == ("not a square" in record["note"])
            assert (record["latency"] is None) == wide_square
            if not wide_square:
                assert record["error"] <= record["tolerance"]
                assert len(record["samples"]) == 3
                assert record["time_to_roofline"] == pytest.approx(record["latency"]["median"] / record["roofline"])
                assert (record["saved_bytes"] is not None) == (record["mode"] == "training")
            if record["row"] == "off":
                height, width = record["size"]
                assert record["multiply_adds"] == 3 * 8 * height * width
        assert {gemm["dtype"] for gemm in found["gemm"]} == {"fp32", "bf16"}
        shown = capsys.readouterr().out
        assert "Inference, 64x64, batch 1, cpu" in shown
        assert "| off | bf16 | eager |" in shown
        assert shown.count("Training, 32x64") == 1
        assert "Training, 32x64" in (tmp_path / "out/benchmark.md").read_text()

    def test_wrong_folding_is_found_unless_left_out(self, official, tmp_path, capsys):
        common = ("--official", f"off={official}:wrong_fuse", "--sizes", "32x32", "--modes", "inference", "--no-memory")
        with pytest.raises(SystemExit) as stop:
            benchmark(tmp_path / "fused", *common)
        assert stop.value.code == 1
        assert "off fp32 eager" in capsys.readouterr().err.splitlines()[-1]
        record = json.loads((tmp_path / "fused/benchmark.json").read_text())["results"][0]
        assert record["latency"] is None
        assert record["error"] == pytest.approx(0.01, rel=0.5)
        assert benchmark(tmp_path / "plain", *common, "--no-fuse")["results"][0]["error"] < 1e-6

    @pytest.mark.slow
    def test_memory_and_plot(self, official, tmp_path):
        found = benchmark(
            tmp_path, "--official", f"off={official}:good", "--sizes", "512x512", "--modes", "training", "--batch", "4"
        )
        record = found["results"][0]
        out_bytes = 4 * 8 * 128 * 128 * 4
        assert record["memory"]["peak"] - record["memory"]["start"] > 2 * out_bytes  # map and gradient
        assert (tmp_path / "benchmark.png").stat().st_size > 5000

    @pytest.mark.slow
    def test_compiled(self, official, tmp_path):
        arguments = ("--sizes", "32x32", "--modes", "inference", "--execution", "compile", "--no-memory")
        record = benchmark(tmp_path, "--official", f"off={official}:good", *arguments)["results"][0]
        assert (record["execution"], record["note"]) == ("compile", "")
        assert len(record["samples"]) == 3

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["dwnet_t", "--rounds", "0"], "at least"),
            (["dwnet"], "did you mean"),
            (["--detectors", "dwnet"], "--data-root"),
            (["--detectors", "dwnet", "--modes", "training"], "did you mean"),
        ],
    )
    def test_mistakes_in_one_sentence(self, arguments, words, tmp_path, capsys):
        main = runpy.run_path(str(REPOSITORY / "tools/benchmark.py"))["main"]
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--out", str(tmp_path)])
        assert stop.value.code == 1
        assert words in capsys.readouterr().err

    @pytest.mark.slow
    def test_detectors(self, tmp_path):
        make_shapes(tmp_path / "shapes", num_train=4, num_val=4, size=96)
        config = REPOSITORY / "configs/mask_rcnn_dwnet_nano_shapes.py"
        rows = [f"a={config}", f"b={config}:stock"]
        arguments = ("--images", "2", "--sizes", "64x64", "--data-root", str(tmp_path / "shapes"))
        results = benchmark(tmp_path, "--detectors", *rows, *arguments)["results"]
        assert [(r["mode"], r["row"], r["way"], r["note"]) for r in results] == [
            (mode, row, way, "")
            for mode in ("evaluation", "training")
            for row, way in (("a", "fused"), ("b (stock)", "stock"))
        ]
        for result in results:
            assert result["found"] > 0
            assert len(result["samples"]) == 3
            for i, sample in enumerate(result["samples"]):
                assert sum(seconds[i] for seconds in result["parts"].values()) == pytest.approx(sample, rel=0.05)


def test_inner_part_is_taken_from_the_outer(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 6.0])
    monkeypatch.setattr("benchmarking.stopwatch.time.perf_counter", lambda: next(times))
    watch = Stopwatch("cpu")
    with watch.part("network"), watch.part("mask pasting"):
        pass
    assert watch.read() == {"network": 3, "mask pasting": 3}
    assert watch.read() == {}


def test_operator_beside_its_unfold_form():
    x, kernels = torch.randn(2, 64, 9, 8), torch.randn(2, 32 * 49, 9, 8)
    torch.testing.assert_close(unfold_form(x, kernels, 7), inhomogeneous_conv(x, kernels, 7), rtol=1e-4, atol=1e-4)
    results = measure_inhomogeneous(rounds=2, warmup=0, batch=1, device="cpu", stages=((96, 16), (192, 8)))
    for result, (channels, side) in zip(results, ((96, 16), (192, 8)), strict=True):
        out, taps = channels * side**2 * 4, 32 * 49 * side**2 * 4
        assert result.peak_bytes[0] - result.extra_bytes[0] == 2 * out + taps
        assert result.peak_bytes[1] >= 49 * out  # the unfolded map alone
        assert result.extra_bytes[0] < result.extra_bytes[1]
        assert result.record()["extra_to_unfold"] == result.extra_bytes[0] / result.extra_bytes[1]
    assert len(operator_table(results, 1, "cpu").splitlines()) == 4 + 2
