"""The benchmarks: that they check, count and write right. What they measure is not for tests."""

from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from forked import _one_thread_and_no_process_left  # noqa: F401 - a fixture

from benchmarks import backbones, detectors, operators
from benchmarks.backbones import Case, Step, parse_row, relative_error
from benchmarks.results import Benchmark, read
from benchmarks.tables import GEMM
from localvit_det.datasets.synthetic_shapes import make_shapes
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


def measured(main, tmp_path: Path, *arguments: object) -> Benchmark:
    """Run a command in this process and return what it wrote."""
    main([*map(str, arguments), "--rounds", "3", "--csv", str(tmp_path / "out.csv"), "--name", "one"])
    return read(tmp_path / "out.csv")["one"]


class TestRows:
    def test_labels(self, official):
        texts = ("dwnet_t", "dwnet_t+with_cp=True", f"off={official}:good+channels-last", "gg_t+window_size=5")
        labels = ["dwnet_t", "dwnet_t (with_cp)", "off (channels-last)", "gg_t (window_size=5)"]
        assert [parse_row(text).label for text in texts] == labels

    @pytest.mark.parametrize("name", ["gg_t", "swin_t", "svt_s", "torchvision_swin_t", "timm_swin_t", "timm_svt_s"])
    def test_named_networks_take_images_of_any_size(self, name):
        if name.startswith("timm"):
            pytest.importorskip("timm")
        step = Step(Case(parse_row(name), "inference", (72, 100)))
        assert (512 if "svt" in name else 768) in step.forward()[-1].shape

    def test_same_weights_each_time(self, official):
        row = parse_row(f"off={official}:good")
        first, second = row.build().state_dict(), row.build().state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(first["norm.running_var"], torch.ones(8))

    @pytest.mark.parametrize(
        ("text", "words"),
        [("shufle_t", "shuffle_t"), ("off=missing.py:f", "NAME=FILE.py:FUNCTION"), ("gg_t+x", r"\+ARGUMENT=VALUE")],
    )
    def test_mistakes(self, text, words):
        with pytest.raises(ConfigError, match=words):
            parse_row(text)


def test_relative_error():
    expected = [torch.ones(4), torch.full((4,), 10.0)]
    assert relative_error([torch.ones(4), torch.full((4,), 10.5)], expected) == pytest.approx(0.05)
    assert relative_error([torch.ones(4)], expected) == float("inf")
    assert relative_error([torch.full((4,), torch.nan), expected[1]], expected) == float("inf")


def test_a_row_of_another_size_is_compared_with_its_own_network():
    case = Case(parse_row("dwnet_t+embed_dims=16+with_cp=True"), "training", (32, 32), 2)
    record = backbones.Record("training", "", case.row.label, "eager", "fp32")
    assert backbones._checked_step(case, record) is not None, record.note
    assert record.get("error") < 1e-4


def test_training_step_leaves_no_gradients_and_its_mode():
    step = Step(Case(parse_row("dwnet_t"), "training", (32, 64), 2))
    seen = []
    parameter = next(step.net.parameters())
    parameter.register_hook(lambda gradient: seen.append(gradient.norm()))
    step()
    step.checkable()
    assert seen[0] > 0
    assert parameter.grad is None
    assert all(module.training for module in step.net.modules())


@pytest.fixture
def _small_product(monkeypatch):
    monkeypatch.setitem(backbones.GEMM_SHAPE, "cpu", (4, 8, 16))  # bf16 is slow where the processor does not know it


@pytest.mark.usefixtures("_small_product")
def test_samples_and_failing_row(official, tmp_path, capsys):
    rows = (f"off={official}:good", f"square={official}:only_squares")
    found = measured(
        backbones.main, tmp_path, *rows, "--sizes", "64x64", "32x64", "--dtypes", "fp32", "bf16", "--no-memory"
    )
    assert {"device", "threads", "versions", "command", "load"} <= found.environment.keys()
    assert [len(records) for records in found.tables()] == [6] * 4  # rows and a product, in two types
    for record in (record for record in found.records if record.row != GEMM):
        wide_square = record.row == "square" and record.setting.startswith("32x64")
        assert wide_square == ("not a square" in record.note)
        assert len(record.quantities.get("seconds", ())) == (0 if wide_square else 3)
        assert ("saved bytes" in record.quantities) == (record.mode == "training" and not wide_square)
        if record.row == "off":
            height, width = map(int, record.setting.partition(",")[0].split("x"))
            assert record.get("MACs") == 3 * 8 * height * width
    shown = capsys.readouterr().out
    assert "| off | eager | bf16 |" in shown
    assert shown.count("Training, 32x64, batch 1, cpu") == 1


@pytest.mark.usefixtures("_small_product")
def test_wrong_folding_is_found_unless_left_out(official, tmp_path, capsys):
    common = (f"off={official}:wrong_fuse", "--sizes", "32x32", "--modes", "inference", "--no-memory")
    with pytest.raises(SystemExit) as stop:
        measured(backbones.main, tmp_path, *common)
    assert stop.value.code == 1
    assert "off fp32 eager" in capsys.readouterr().err.splitlines()[-1]
    record = read(tmp_path / "out.csv")["one"].records[0]
    assert "seconds" not in record.quantities
    assert record.get("error") == pytest.approx(0.01, rel=0.5)
    assert measured(backbones.main, tmp_path, *common, "--no-fuse").records[0].get("error") < 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("_small_product")
def test_memory_and_compiled(official, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the compiler is PyTorch's
    row, out_bytes = f"off={official}:good", 4 * 8 * 128 * 128 * 4
    one = measured(backbones.main, tmp_path, row, "--sizes", "512x512", "--modes", "training", "--batch", "4").records[
        0
    ]
    assert one.get("memory peak") - one.get("memory start") > 2 * out_bytes  # feature map and gradient
    arguments = ("--sizes", "32x32", "--modes", "inference", "--execution", "compile", "--no-memory")
    record = measured(backbones.main, tmp_path, row, *arguments).records[0]
    assert (record.run, record.note, len(record.quantities["seconds"])) == ("compile", "", 3)


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (backbones.main, ["dwnet_t", "--rounds", "0"], "at least"),
        (backbones.main, ["dwnet"], "did you mean"),
        (backbones.main, ["dwnet_t", "--execution", "int8"], "do not train"),
        (detectors.main, ["dwnet_t"], "--data-root"),
        (detectors.main, ["dwnet", "--modes", "training"], "did you mean"),
    ],
)
def test_mistakes_in_one_sentence(main, arguments, words, tmp_path, refused):
    assert words in refused(main, *arguments, "--csv", tmp_path / "out.csv")


@pytest.mark.slow
def test_detectors(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "get_context", lambda _: get_context("fork"))  # which import nothing anew
    make_shapes(tmp_path / "shapes", num_train=4, num_val=4, size=96)
    config = Path(__file__).parents[2] / "configs/mask_rcnn_dwnet_nano_shapes.py"
    options = ("--images", "2", "--sizes", "64x64", "--data-root", tmp_path / "shapes")
    found = measured(detectors.main, tmp_path, f"a={config}", f"b={config}:stock", *options)
    rows = (("a", "fused"), ("b (stock)", "stock"))
    expected = [(mode, *row, "") for mode in ("evaluation", "training") for row in rows]
    assert [(r.mode, r.row, r.run, r.note) for r in found.records] == expected
    for record in found.records:
        assert record.get("found") > 0
        parts = [numbers for name, numbers in record.quantities.items() if name.startswith("seconds: ")]
        assert len(parts) >= 8
        assert [sum(round_) for round_ in zip(*parts, strict=True)] == pytest.approx(
            record.quantities["seconds"], rel=0.05
        )


def test_inner_part_is_taken_from_the_outer(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 6.0, 7.0])
    monkeypatch.setattr(detectors, "timer", lambda: next(times))
    watch = detectors.Stopwatch()
    with watch.part("network"), watch.part("mask pasting"):
        watch.go_on("other")
    assert watch.seconds == {"network": 2, "mask pasting": 3, "other": 2}


def test_operator_and_its_unfold_form():
    x, kernels = torch.randn(2, 64, 9, 8), torch.randn(2, 32 * 49, 9, 8)
    expected = inhomogeneous_conv(x, kernels, 7)
    torch.testing.assert_close(operators.unfold_form(x, kernels, 7), expected, rtol=1e-4, atol=1e-4)
    stages = ((96, 16), (192, 8))
    records = operators.measure(rounds=2, warmup=0, batch=1, device="cpu", stages=stages)
    for (channels, side), ours, unfold in zip(stages, records[::2], records[1::2], strict=True):
        out, taps = channels * side**2 * 4, 32 * 49 * side**2 * 4
        assert ours.get("peak bytes") - ours.get("extra bytes") == 2 * out + taps
        assert unfold.get("peak bytes") >= 49 * out  # the unfolded feature map alone
        assert ours.get("extra bytes") < unfold.get("extra bytes")
