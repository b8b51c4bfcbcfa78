"""The report of an evaluation with hundreds of classes: read once, and short enough to be read."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.report import draw_evaluation
from localvit.commands.analyze import MOST_ROWS, as_text
from localvit_det.analysis import charts
from localvit_det.analysis.coco import average_precision, confusion_matrix, match, most_confused
from localvit_det.analysis.results import class_section, class_table, confusion_section

CLASSES = 150


@pytest.fixture(scope="module")
def evaluation():
    return draw_evaluation(images=60, objects=900, classes=CLASSES)


class Once(list):
    """Counts how often it is gone through."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


def test_a_table_reads_the_annotations_once(evaluation, monkeypatch):
    annotations = Once(evaluation.truth.dataset["annotations"])
    monkeypatch.setitem(evaluation.truth.dataset, "annotations", annotations)
    rows = class_table(evaluation, "bbox").rows
    assert annotations.times == 1
    names = {name: category for category, name in evaluation.classes.items()}
    for name, images, objects, *_ in rows[:-1]:
        own = [one for one in annotations if one["category_id"] == names[name]]
        assert (images, objects) == (len({one["image_id"] for one in own}), len(own))
    assert rows[-1][:3] == ["all", 60, 900]
    there = {one["category_id"] for one in annotations}
    assert [row[0] for row in rows[:-1]] == [name for category, name in evaluation.classes.items() if category in there]
    said = [part for part in class_section(evaluation).parts if isinstance(part, str)]
    assert f"{CLASSES - len(there)} of the {CLASSES} classes have no objects here." in said


def test_numbers_of_a_class_are_those_of_its_part(evaluation):
    evaluator = evaluation.tasks["bbox"]
    whole = evaluator.eval["precision"]
    for label in (0, 7):
        assert average_precision(evaluator, "AP", label) == pytest.approx(whole[:, :, label, 0, 2].mean())
        assert average_precision(evaluator, "AP75", label) == pytest.approx(whole[5, :, label, 0, 2].mean())
        assert average_precision(evaluator, "APl", label) == pytest.approx(whole[:, :, label, 3, 2].mean())
    assert average_precision(evaluator, "AP", CLASSES - 1) is None
    assert average_precision(evaluator, "AP50") == pytest.approx(whole[0][:, whole[0, 0, :, 0, 2] > -1, 0, 2].mean())


def test_the_most_confused_are_kept_and_nothing_is_lost(evaluation):
    counts = confusion_matrix(match(evaluation), list(evaluation.classes))
    names = list(evaluation.classes.values())
    merged, shown = most_confused(counts, names, 20)
    assert merged.shape == (22, 22)
    assert merged.sum() == counts.sum()
    assert shown[-1] == "130 others"
    mistakes: Counter[str] = Counter()
    for row, column in zip(*np.nonzero(counts[:-1, :-1]), strict=True):
        if row != column:
            mistakes[names[row]] += counts[row, column]
            mistakes[names[column]] += counts[row, column]
    kept, others = set(shown[:-1]), set(names) - set(shown)
    assert min(mistakes[name] for name in kept) >= max(mistakes[name] for name in others)
    place = [names.index(name) for name in shown[:-1]]
    np.testing.assert_array_equal(merged[:20, :20], counts[np.ix_(place, place)])
    np.testing.assert_array_equal(merged[:20, -1], counts[place, -1])
    assert merged[-1, 20] == sum(counts[-1, names.index(name)] for name in others)
    same, every = most_confused(counts, names, CLASSES)
    assert same is counts
    assert every == names


@pytest.mark.parametrize("classes", [3, 20, 80, 400])
def test_charts_hold_what_can_be_read(classes):
    evaluation = draw_evaluation(images=20, objects=400, classes=classes)
    chart = confusion_section(evaluation, match(evaluation), "").parts[1]
    axes = chart.figure.axes[0]
    assert len(axes.get_xticklabels()) == min(classes + 1, charts.NUMBERED + 2)
    assert min(label.get_fontsize() for label in axes.get_xticklabels()) >= 8
    assert axes.texts
    assert (f"Of {classes} classes" in chart.caption) is (classes > charts.NUMBERED)
    curves = charts.precision_recall(evaluation.tasks["bbox"], list(evaluation.classes.values())).axes[0]
    with_objects = len(class_table(evaluation, "bbox").rows) - 1
    assert len(curves.lines) == (with_objects + 1 if with_objects <= 80 else 1)
    assert bool(curves.collections) is (with_objects > 80)


def test_a_terminal_gets_the_largest_classes(evaluation):
    table = class_table(evaluation, "bbox")
    lines = as_text(table).splitlines()
    assert len(lines) == 1 + MOST_ROWS + 1 + 1
    shown = [int(line.split()[3]) for line in lines[1 : MOST_ROWS + 1]]
    assert shown == sorted((row[2] for row in table.rows[:-1]), reverse=True)[:MOST_ROWS]
    assert lines[-2].split()[0] == "all"
    assert lines[-1] == f"and {len(table.rows) - 1 - MOST_ROWS} classes with fewer objects, which the page has"
