"""The benchmark of what our runner adds to an iteration."""

import pytest

from benchmarks import overhead

pytestmark = pytest.mark.measuring


@pytest.mark.slow
def test_both_runners_are_measured(capsys):
    overhead.main(["--epochs", "1", "--length", "20"])
    rows = [line.split("|")[1:5] for line in capsys.readouterr().out.splitlines() if "Runner |" in line]
    assert [name.strip() for name, *_ in rows] == ["Runner", "ReliableRunner"]
    assert all(0 < float(median) < 1000 and float(clock) >= float(longest) > 0 for _, median, longest, clock in rows)
