"""The soak's report, from samples that are known, and one short training."""

import ctypes
import json
import sys

import pytest
from toy_training import toy_runner

import soak
from localvit_det.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def samples(resident, in_use=lambda iteration: 300e6) -> list[dict]:
    return [{"iteration": i, "mode": "train", "resident": resident(i), "in_use": in_use(i)} for i in range(5, 2001, 5)]


def test_growth_of_the_first_iterations_does_not_count(capsys):
    assert soak.report(samples(lambda i: 1e9 if i > 200 else 1e6 * i), 200) == 0
    assert "resident, median: 1000 to 1000 MB (+0.0%)" in capsys.readouterr().out


def test_growth_is_found(capsys):
    assert soak.report(samples(lambda i: 1e9 + 1e5 * i, lambda i: 3e8 + 1e5 * i), 200) == pytest.approx(15.5, abs=0.1)
    assert "in_use, median: 330 to 490 MB (+48." in capsys.readouterr().out


def test_too_short():
    with pytest.raises(UserError, match="not enough iterations after the first 200"):
        soak.report(samples(lambda i: 1e9)[:41], 200)


def test_in_use_is_what_is_not_free():
    before = soak.memory_now()
    if not before["in_use"]:
        pytest.skip("the C library does not tell")
    block = ctypes.create_string_buffer(50_000_000)
    assert soak.memory_now()["in_use"] - before["in_use"] == pytest.approx(50_000_000, rel=0.05)
    del block
    assert soak.memory_now()["in_use"] - before["in_use"] < 5_000_000


def test_memory_is_written_down(tmp_path):
    toy_runner(tmp_path, epochs=2, validate=True, custom_hooks=[soak.MemoryLogHook(interval=3)]).train()
    lines = [json.loads(line) for line in (tmp_path / soak.MEMORY_FILE).read_text().splitlines()]
    assert [(line["mode"], line["iteration"]) for line in lines] == [
        *(("train", 3), ("train", 6), ("val", 6)),
        *(("train", 9), ("train", 12), ("val", 12)),
    ]
    assert all(line["resident"] > 1e8 for line in lines)
