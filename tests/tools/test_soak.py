"""The soak's report, from samples that are known, and one short training."""

import ctypes
import json
import sys

import pytest
from toy_training import toy_runner

import soak
from localvit_det.errors import UserError
from reliability.memory_log import MEMORY_FILE, MemoryLogHook, memory_now

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def samples(resident, in_use=lambda iteration: 300e6) -> list[dict]:
    return [{"iteration": i, "mode": "train", "resident": resident(i), "in_use": in_use(i)} for i in range(5, 2001, 5)]


def growth(tmp_path, given: list[dict], capsys) -> tuple[int, str]:
    (tmp_path / MEMORY_FILE).write_text("".join(json.dumps(sample) + "\n" for sample in given))
    try:
        soak.main(["--report-only", "--work-dir", str(tmp_path)])
    except SystemExit as stop:
        return stop.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def test_growth_of_the_first_iterations_does_not_count(tmp_path, capsys):
    code, table = growth(tmp_path, samples(lambda i: 1e9 if i > 200 else 1e6 * i), capsys)
    assert code == 0
    assert "resident, median: +0.0%" in table
    assert len([line for line in table.splitlines() if " to " in line]) == soak.ROWS


def test_growth_is_found(tmp_path, capsys):
    code, table = growth(tmp_path, samples(lambda i: 1e9 + 1e5 * i, lambda i: 3e8 + 1e5 * i), capsys)
    assert code == 1
    assert "resident, median: +15.5%" in table
    assert "in use, median: +48." in table


def test_too_short():
    with pytest.raises(UserError, match="not enough iterations after the first 200"):
        soak.rows(samples(lambda i: 1e9)[:41], 200)


def test_in_use_is_what_is_not_free():
    before = memory_now()
    if before["in_use"] is None:
        pytest.skip("the C library does not tell")
    block = ctypes.create_string_buffer(50_000_000)
    assert memory_now()["in_use"] - before["in_use"] == pytest.approx(50_000_000, rel=0.05)
    del block
    assert memory_now()["in_use"] - before["in_use"] < 5_000_000


def test_memory_is_written_down(tmp_path):
    toy_runner(tmp_path, epochs=2, validate=True, custom_hooks=[MemoryLogHook(interval=3)]).train()
    lines = [json.loads(line) for line in (tmp_path / MEMORY_FILE).read_text().splitlines()]
    assert [(line["mode"], line["iteration"]) for line in lines] == [
        *(("train", 3), ("train", 6), ("val", 6)),
        *(("train", 9), ("train", 12), ("val", 12)),
    ]
    assert all(line["resident"] > 1e8 for line in lines)
