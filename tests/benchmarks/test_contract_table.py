"""The table of the contract: what each case ended in."""

import pytest
from contract import CASES, NotApplicable
from torch import nn

from benchmarks import contract


def test_a_cell_says_how_a_case_ended():
    def works(make_net):
        assert make_net().weight.shape == (3, 2)

    def fails(make_net):
        raise KeyError("x")

    def absent(make_net):
        raise NotApplicable("no fuse()")

    cells = [contract.outcome(case, lambda: nn.Linear(2, 3), NotApplicable) for case in (works, fails, absent)]
    assert cells == ["yes", "no (KeyError)", "-"]


@pytest.mark.measuring
def test_the_table(capsys, monkeypatch):
    pytest.importorskip("timm")
    for name in [name for name in CASES if name not in ("contiguous", "vector")]:
        monkeypatch.delitem(CASES, name)
    contract.main(["ConvNeXt", "DynamicDWNet"])
    _, _, head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| case | DynamicDWNet | IDynamicDWNet | ConvNeXt (timm) |"
    assert [row.rpartition("` and back")[2] or row for row in rows][-1] == " | yes | yes | yes |"
    assert len(rows) == 2
