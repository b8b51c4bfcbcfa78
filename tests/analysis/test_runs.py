"""Logs of trainings, on logs made up in MMEngine's format."""

import numpy as np
import pytest
from made_results import write_log
from pages import check_page

from localvit_det.analysis.page import Table, render
from localvit_det.analysis.report import read_log, run_sections
from localvit_det.errors import DataError


@pytest.mark.parametrize("by_epoch", [True, False])
def test_curves(tmp_path, by_epoch):
    log = read_log(write_log(tmp_path, range(1, 4), by_epoch=by_epoch))
    x, y = log.line("loss")
    np.testing.assert_array_equal(x, np.arange(2, 31, 2))
    np.testing.assert_allclose(y, 8 / x)
    assert list(log.losses()) == ["loss", "loss_cls"]
    x, y = log.scores()["bbox"]
    np.testing.assert_array_equal(x, [10, 20, 30])
    np.testing.assert_allclose(y, [0.1, 0.2, 0.3])
    assert log.seconds() == 0.5  # of iterations, not of validations
    assert log.memory() is None
    assert log.line("grad_norm") is None


def test_resumed_training_is_one(tmp_path):
    write_log(tmp_path, range(1, 3))
    write_log(tmp_path, range(2, 5), start="20260102_000000", memory=700.0)  # from the checkpoint of epoch 1
    log = read_log(tmp_path)
    np.testing.assert_array_equal(log.line("loss")[0], np.arange(2, 41, 2))
    np.testing.assert_array_equal(log.scores()["segm"][0], [10, 20, 30, 40])
    assert log.memory() == 700


def test_a_new_training_is_not_mixed_with_an_older_one(tmp_path):
    write_log(tmp_path, range(1, 5))
    write_log(tmp_path, range(1, 3), start="20260102_000000")
    log = read_log(tmp_path)
    np.testing.assert_array_equal(log.line("loss")[0], np.arange(2, 21, 2))
    np.testing.assert_array_equal(log.scores()["bbox"][0], [10, 20])
    assert [folder.name for folder in log.starts] == ["20260102_000000"]


def test_starts_say_where_they_have_gone_on(tmp_path):
    """Logged less often than before, so that nothing else would tell what is of an earlier training."""
    write_log(tmp_path, range(1, 5))
    write_log(tmp_path, range(2, 4), start="20260102_000000")
    (tmp_path / "20260102_000000/start.json").write_text('{"iteration": 5}')
    log = read_log(tmp_path)
    assert list(log.line("loss")[0]) == [2, 4, *range(12, 31, 2)]
    assert list(log.starts.values()) == [1, 5]
    (tmp_path / "20260102_000000/start.json").write_text('{"iteration": 0}')
    log = read_log(tmp_path)
    assert list(log.line("loss")[0]) == [*range(12, 31, 2)]
    assert list(log.starts.values()) == [0]


def test_back_to_a_checkpoint(tmp_path):
    write_log(tmp_path, range(1, 4))
    file = tmp_path / "20260101_000000/vis_data/scalars.json"
    rows = file.read_text().splitlines()[:-1]
    again = [row.replace('"lr": 0.1', '"lr": 0.05') for row in rows[6:9]]  # of the second epoch
    file.write_text("\n".join([*rows, *again]))
    log = read_log(tmp_path)
    assert list(log.line("loss")[0]) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert list(log.line("lr")[1][-3:]) == [0.05] * 3
    assert list(log.scores()["bbox"][0]) == [10]


def test_several_trainings(tmp_path):
    for name, last in (("a/run", 2), ("b/run", 4)):
        write_log(tmp_path / name, range(1, last + 1))
    sections = run_sections([tmp_path / "a/run", tmp_path / "b/run"])
    (table,) = (part for part in sections[1].parts if isinstance(part, Table))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["a/run"][:3] == [20, pytest.approx(0.2), pytest.approx(0.2)]
    assert rows["b/run"][:3] == [40, pytest.approx(0.4), pytest.approx(0.4)]
    text = check_page(render("runs", sections)).text
    assert text.count("b/run") >= 3  # both curves and the table


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        read_log(tmp_path / "none")
    with pytest.raises(DataError, match="No training has logged anything"):
        read_log(tmp_path)
