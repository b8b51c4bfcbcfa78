"""Changed files end in a result or a sentence of the package; the fuzzer sees what does not."""

import os
import time
from pathlib import Path

import pytest

import fuzz
from fuzzing.targets import TARGETS, Target

COUNTS = {"checkpoint": 400, "annotations": 150, "yaml": 120, "xml": 120, "image": 400}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_results_and_sentences(name, tmp_path):
    report = fuzz.fuzz(name, tmp_path, seed=0, count=COUNTS[name])
    saved = {file.name: file.read_text() for file in tmp_path.glob("*.txt")}
    assert saved == {}
    assert not report.findings
    assert report.inputs == COUNTS[name]
    assert report.read > COUNTS[name] / 50


def wrong(folder: Path, file: Path) -> None:
    """Fail in another way for each input."""
    content = file.read_bytes()
    if content == b"kill":
        os.abort()
    if content == b"memory":
        bytearray(b"1") * (64 << 20)
    if content == b"cpu":
        while True:
            pass
    if content == b"lines":
        raise fuzz.OUR_ERRORS[0]("two\nlines")
    if content == b"error":
        raise KeyError("x")
    if content == b"sentence":
        raise fuzz.OUR_ERRORS[0]("one line")


@pytest.mark.slow
def test_sees(tmp_path, monkeypatch):
    # Far apart: writing 600 MB took 0.2 to 1 s of the same processor, depending on what the kernel had at hand.
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 1.5)
    monkeypatch.setattr(fuzz, "MEGABYTES", 32)
    kinds = [b"kill", b"memory", b"cpu", b"lines", b"error", b"sentence", b"good"]
    target = Target(lambda folder: [(".x", b"good")], lambda random, *_: random.choice(kinds), wrong)
    report = fuzz.fuzz("wrong", tmp_path, seed=31, count=12, target=target)  # which draw each of them
    assert {kind.split(" in ")[0] for kind in report.findings} == {
        "ended by SIGABRT",
        "more than 32 MB",
        "more than 1.5 s of a CPU",
        "sentence of several lines: UserError",
        "KeyError",
    }
    assert report.inputs == 12
    assert 0 < report.read < 12 - report.findings.total()
    assert len(list(tmp_path.glob("*.x"))) == len(report.findings)
    (error,) = (file for file in tmp_path.glob("*.txt") if file.read_text().startswith("KeyError"))
    assert "in wrong" in error.read_text()
    assert error.with_suffix(".x").read_bytes() == b"error"


def test_same_seed_same_inputs(tmp_path):
    seen = tmp_path / "seen"

    def note(folder: Path, file: Path) -> None:
        with seen.open("ab") as stream:
            stream.write(file.read_bytes() + b"\n")

    def noted(seed: int, **limits: float) -> bytes:
        seen.unlink(missing_ok=True)
        target = Target(lambda folder: [(".json", b'{"a": 1}')], TARGETS["annotations"].change, note)
        fuzz.fuzz("x", tmp_path, seed=seed, target=target, **limits)
        return seen.read_bytes()

    assert noted(3, count=20) == noted(3, count=20) != noted(4, count=20)
    start = time.monotonic()
    noted(3, seconds=0.2)
    assert time.monotonic() - start < 10
