"""`make gpu`: rehearsed on a CPU, where every step runs with the least of each."""

import importlib
import io
import subprocess
from contextlib import redirect_stdout
from multiprocessing import get_context

import pytest
import torch
from forked import _one_thread_and_no_process_left  # noqa: F401 - a fixture

from benchmarks import detectors, gpu

pytestmark = pytest.mark.measuring


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys, tmp_path):
    assert gpu.main(["--out", str(tmp_path / "gpu.md")]) == 2
    assert capsys.readouterr().err == f"{gpu.NO_GPU}\n"
    assert not list(tmp_path.iterdir())


def test_a_step_that_fails_is_named_and_the_others_run():
    steps = {"bad": ["-c", "import sys; sys.exit('no')"], "tests": ["-c", "print('3 passed')"]}
    outcomes = gpu.run_all(steps, minutes=1)
    assert outcomes["bad"].startswith("FAILED: code 1 after")
    assert outcomes["tests"].startswith("ended well")
    assert outcomes["tests"].endswith("; 3 passed")


def test_ends_in_time():
    steps = {"long": ["-c", "import time; time.sleep(60)"], "late": ["-c", "1 / 0"]}
    outcomes = gpu.run_all(steps, minutes=0.02)
    assert outcomes["long"].startswith("stopped after 1 s")
    assert outcomes["late"].startswith("not run")


def test_everything_is_measured_on_the_gpu(tmp_path):
    steps = gpu.commands("cuda", False, tmp_path / "gpu.csv", ["official=own.py:make"])
    for name, arguments in steps.items():
        if name == "tests":
            assert arguments[:4] == ["-m", "pytest", "-q", "-m"]
            continue
        assert {"swin_t", *gpu.FAMILIES} <= set(arguments)
        assert ("official=own.py:make" in arguments) == (name != "gpu_detectors")
        assert arguments[arguments.index("--device") + 1] == "cuda"
    assert "resnet50" in steps["gpu_detectors"]
    assert steps.keys() - {"tests"} == gpu.TITLES.keys()


@pytest.mark.slow
def test_rehearsal(tmp_path, monkeypatch):
    """Every step, of which the benchmarks run in this process: six that import everything would take a minute."""
    page, start = tmp_path / "gpu.md", subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        if "-m" not in command or command[2] == "pytest":  # also what asks the system
            return start(command, **options)
        with redirect_stdout(io.StringIO()) as shown:
            code = importlib.import_module(command[2]).main(command[3:])
        return subprocess.CompletedProcess(command, code or 0, shown.getvalue())

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(detectors, "get_context", lambda _: get_context("fork"))
    assert gpu.main(["--device", "cpu", "--small", "--out", str(page)]) == 0, page.read_text()
    text = page.read_text()
    assert "FAILED" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Rehearsal of the results on a GPU, without one",
        *(f"## {title}" for title in gpu.TITLES.values()),
    ]
    for row in ("| swin_t", "| dwnet_t", "| dwnet_nano"):
        assert row in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert page.with_suffix(".csv").is_file()
