"""The memory that a process may take is the least of what the machine, its container and the job allow."""

import gc

import pytest
from toy_training import toy_runner

from localvit_det import memory
from localvit_det.engine import ReliableRunner


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")


def test_the_machine_has_a_limit():
    assert 2**28 < memory.memory_limit() < 2**50
    assert 2**26 < memory.memory_limit() - memory.memory_left() < 2**36  # what these tests have taken


@pytest.mark.parametrize(
    ("own", "file", "text", "limit"),
    [
        ("0::/a/b", "a/b/memory.max", "1000000", 1e6),
        ("0::/a/b", "a/memory.max", "2000000", 2e6),  # of what it is in
        ("0::/", "memory.max", "3000000", 3e6),
        ("0::/a", "a/memory.max", "max", None),
        ("5:cpu:/\n4:memory:/job", "memory/job/memory.limit_in_bytes", "4000000", 4e6),
    ],
)
def test_control_groups(tmp_path, own, file, text, limit):
    machine = memory.memory_limit()
    (tmp_path / "own").write_text(f"{own}\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"{text}\n")
    assert memory.memory_limit() == (limit or machine)


@pytest.mark.parametrize(
    ("variables", "limit"),
    [
        ({"SLURM_MEM_PER_NODE": "100"}, 100 << 20),
        ({"SLURM_MEM_PER_CPU": "10", "SLURM_CPUS_ON_NODE": "3"}, 30 << 20),
        ({"SLURM_MEM_PER_NODE": "0"}, None),  # all of the machine
    ],
)
def test_jobs_of_slurm(monkeypatch, variables, limit):
    machine = memory.memory_limit()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory.memory_limit() == (limit or machine)


@pytest.mark.parametrize("others", [0, 1])
def test_a_training_leaves_what_was_imported_out_of_collections(others, tmp_path, monkeypatch):
    """Also where it fails; what someone else has left out stays so."""
    counts = []
    monkeypatch.setattr(ReliableRunner, "_train", lambda runner: counts.append(gc.get_freeze_count()) or 1 / 0)
    runner = toy_runner(tmp_path)
    gc.unfreeze()
    if others:
        gc.freeze()
    try:
        with pytest.raises(ZeroDivisionError):
            runner.train()
        assert counts[0] > 100_000
        assert bool(gc.get_freeze_count()) is bool(others)
    finally:
        gc.freeze()  # as conftest does
