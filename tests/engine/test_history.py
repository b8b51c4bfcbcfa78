"""Histories of logged numbers: what MMEngine's would answer, without a copy of all at each new number."""

import copy
import pickle
import random
import zipfile

import numpy as np
import pytest
from mmengine.logging import HistoryBuffer
from toy_training import final, toy_runner

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.engine.loggers import GrowingHistory, Histories


@pytest.mark.parametrize(("before", "longest"), [(0, 1000), (1, 1000), (70, 100), (90, 100), (100, 100)])
def test_answers_are_those_of_mmengine(before, longest):
    draw = random.Random(before)
    start = [draw.random() for _ in range(before)], [1] * before
    theirs, ours = HistoryBuffer(*start, longest), GrowingHistory(HistoryBuffer(*start, longest))
    for step in range(300):
        number, count = draw.random(), draw.randint(1, 3)
        theirs.update(number, count)
        ours.update(number, count)
        assert ours.current() == theirs.current()
        if step % 29 == 0:
            for one, other in zip(ours.data, theirs.data, strict=True):
                np.testing.assert_array_equal(one, other)
            for name in ("mean", "min", "max"):
                for window in (None, 1, 10, 10_000):
                    assert ours.statistics(name, window) == theirs.statistics(name, window)


def test_arrays_are_made_anew_seldom_and_never_written_over():
    history = GrowingHistory(HistoryBuffer(max_length=5000))
    arrays, taken = [], []
    for step in range(20_000):
        history.update(float(step))
        if not arrays or history.data[0].base is not arrays[-1]:
            arrays.append(history.data[0].base)
        taken.append((step, history.data[0]))
    assert len(arrays) < 20
    for step, numbers in taken[::311]:
        np.testing.assert_array_equal(numbers, np.arange(max(0, step - 4999), step + 1))


def test_copies_are_those_of_mmengine():
    history = GrowingHistory(HistoryBuffer([1.0, 2.0], [1, 1]))
    history.update(3.0)
    for one in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(one) is HistoryBuffer
        one.update(4.0)
        assert one.data[0].tolist() == [1, 2, 3, 4]
    assert history.data[0].tolist() == [1, 2, 3]
    assert b"localvit" not in pickle.dumps(history)


def test_a_training_has_them_its_checkpoints_have_those_of_mmengine(tmp_path):
    runner = toy_runner(tmp_path, epochs=1)
    runner.train()
    resumed = toy_runner(tmp_path, epochs=2, resume=True)
    resumed.train()
    for one, length in ((runner, 6), (resumed, 12)):
        scalars = one.message_hub.log_scalars
        assert type(scalars) is Histories
        assert {type(history) for history in scalars.values()} == {GrowingHistory}
        assert len(scalars["train/loss"].data[0]) == length
    saved = load_weights_only(final(tmp_path))["message_hub"]["log_scalars"]
    assert {type(history) for history in saved.values()} == {HistoryBuffer}
    assert saved["train/loss"].data[0].tolist() == resumed.message_hub.log_scalars["train/loss"].data[0].tolist()
    with zipfile.ZipFile(final(tmp_path)) as file:
        content = next(file.read(name) for name in file.namelist() if name.endswith("/data.pkl"))
    assert b"GrowingHistory" not in content
