"""The benchmark of what our runner adds to an iteration."""

import pytest

from benchmarks import overhead

pytestmark = pytest.mark.measuring


@pytest.mark.slow
def test_both_runners_are_measured(capsys):
    overhead.main(["--epochs", "1", "--length", "20"])
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if "Runner |" in line]
    assert [name.strip() for name, *_ in rows] == ["Runner", "ReliableRunner"]
    assert all(0 < float(milliseconds) < 1000 and float(longest) > 0 for _, milliseconds, longest in rows)
