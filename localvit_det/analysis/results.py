"""Sections about an evaluation: table of the classes, precision and recall, confusions, worst images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..visualization import Objects, draw_pair
from . import charts
from .coco import (
    MEASURES,
    RANGES,
    TASKS,
    Evaluation,
    Matches,
    Object,
    average_precision,
    best_score,
    confusion_matrix,
    match,
    most_confused,
    objects_of,
    read_image,
    worst,
)
from .page import LARGEST, Cell, Chart, Part, Picture, Section, Table

_PAIRS = 20  # most frequent confusions that a table lists


def result_sections(
    evaluation: Evaluation, overlap: float = 0.5, score: float = 0.3, measure: str = "mistakes", count: int = 12
) -> list[Section]:
    """Return all sections about an evaluation.

    Args:
        evaluation: What was found and what is there.
        overlap: Least intersection over union at which a prediction is an object.
        score: Least score of predictions in the confusion matrix and the pictures; AP takes all.
        measure: By which the worst images are the worst: one of `MEASURES`.
        count: Worst images.
    """
    matches = match(evaluation, overlap, score)
    rule = f"at an overlap of {overlap:g} ({TASKS[evaluation.main_task]}) and scores from {score:g} on"
    return [
        class_section(evaluation),
        curve_section(evaluation),
        confusion_section(evaluation, matches, rule),
        worst_section(evaluation, matches, measure, count, rule),
    ]


def class_table(evaluation: Evaluation, task: str) -> Table:
    """Return AP of each class that has objects, the mean last."""
    evaluator = evaluation.tasks[task]
    objects: Counter[int] = Counter()
    images: dict[int, set[int]] = {}
    for one in evaluation.truth.dataset.get("annotations", ()):
        if not one["iscrowd"]:
            objects[one["category_id"]] += 1
            images.setdefault(one["category_id"], set()).add(one["image_id"])
    rows: list[list[Cell]] = []
    for label, (category, name) in enumerate(evaluation.classes.items()):
        if category not in objects:
            continue  # there is nothing to say of it: all numbers are of its objects
        numbers = [average_precision(evaluator, column, label) for column in RANGES]
        score, f1 = best_score(evaluator, label) or (None, None)
        rows.append([name, len(images[category]), objects[category], *numbers, f1, score])
    means = [average_precision(evaluator, column) for column in RANGES]
    rows.append(["all", len(evaluation.truth.imgs), objects.total(), *means, None, None])
    head = ["class", "images", "objects", *RANGES, "best F1", "at score"]
    return Table(f"classes_{task}", head, rows, caption=f"{TASKS[task].capitalize()} of each class")


def class_section(evaluation: Evaluation) -> Section:
    """Return a table for each task."""
    tables = {task: class_table(evaluation, task) for task in evaluation.tasks}
    section = Section("Classes", [*tables.values()])
    if absent := len(evaluation.classes) + 1 - len(tables[evaluation.main_task].rows):
        section.parts.append(f"{absent:,} of the {len(evaluation.classes):,} classes have no objects here.")
    if count := sum(not evaluation.found.imgToAnns.get(identity) for identity in evaluation.truth.imgs):
        section.parts.append(f"{count} of the {len(evaluation.truth.imgs)} images have no prediction.")
    if left_out := evaluation.truth.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        section.parts.append(f"Of the annotations {left_out.total()} are not scored: {reasons}.")
    section.parts.append(
        "AP is COCO's mean over overlaps from 0.50 to 0.95, AP50 and AP75 at one overlap; s, m, l: objects under 32², "
        "under 96² and of more pixels. Best F1 is that of AP50's curve, reached with scores from the last column on."
    )
    return section


def curve_section(evaluation: Evaluation) -> Section:
    """Return a chart for each task."""
    names = list(evaluation.classes.values())
    found: list[Part] = [
        Chart(
            f"precision_recall_{task}",
            charts.precision_recall(evaluator, names),
            f"{TASKS[task].capitalize()}: precision over recall at an overlap of 0.5.",
        )
        for task, evaluator in evaluation.tasks.items()
    ]
    return Section("Precision and recall", found)


def confusion_section(evaluation: Evaluation, matches: Sequence[Matches], rule: str) -> Section:
    """Return the matrix, and the most frequent mistakes."""
    names = list(evaluation.classes.values())
    counts = confusion_matrix(matches, list(evaluation.classes))
    caption = f"Counts of objects {rule}."
    shown, labels = most_confused(counts, names, charts.NUMBERED)
    if len(names) > charts.NUMBERED:
        caption += f" Of {len(names):,} classes the {charts.NUMBERED} that are most often taken for each other."
    chart = Chart("confusion", charts.confusion(shown, labels), caption, wide=len(labels) > 12)
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    rows: list[list[Cell]] = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:_PAIRS]:
        row, column = np.unravel_index(place, mistakes.shape)
        if count := int(mistakes[row, column]):
            share = count / int(counts[row].sum()) if row < len(names) else None
            rows.append([[*names, "background"][row], [*names, "nothing (missed)"][column], count, share])
    parts: list[Part] = [
        "Each prediction takes the free object of its class that it overlaps most, by descending score; what is left "
        "then takes objects of other classes. Rows are what is there, columns what it was taken for.",
        chart,
        Table("confusions", ["is", "was taken for", "count", "share of the class"], rows, digits=2),
    ]
    return Section("Confusions", parts if rows else parts[:2])


def worst_section(evaluation: Evaluation, matches: Sequence[Matches], measure: str, count: int, rule: str) -> Section:
    """Return pictures of the images with the most mistakes."""
    found = worst(matches, measure, count)
    pictures = _worst_pictures(evaluation, found)
    text = f"By {measure} ({MEASURES[measure]}), {rule}; the worst first."
    if not found:
        text = f"No image has any mistake of this sort ({measure}), {rule}."
    elif len(pictures) < len(found):
        where = evaluation.images or "a folder that is not known"
        text += f" {len(found) - len(pictures)} of {len(found)} images cannot be read in {where}."
    return Section("Worst images", [text, *pictures])


def _worst_pictures(evaluation: Evaluation, found: Iterable[Matches]) -> list[Picture]:
    """Return ground truth next to predictions, mistakes named and on top; images that cannot be read are left out."""
    labels = {category: label for label, category in enumerate(evaluation.classes)}

    def objects(side: int, wrong: Sequence[Object], mistake: str, image: Matches) -> Objects:
        right = [pair[side] for pair in (*image.confused, *image.right)]
        texts = [f"{mistake}: {evaluation.classes[one['category_id']]}" for one in wrong]
        texts += [evaluation.classes[one["category_id"]] for one in right]
        shown = [*wrong, *right]
        if side:
            texts = [f"{text} {one['score']:.2f}" for text, one in zip(texts, shown, strict=True)]
        return objects_of(evaluation.found if side else evaluation.truth, shown, labels, texts)

    pictures = []
    for number, image in enumerate(found, 1):
        entry = evaluation.truth.imgs[image.image_id]
        pixels = read_image(evaluation.images, entry, evaluation.pixel_range) if evaluation.images else None
        if pixels is None:
            continue
        sides = objects(0, image.missed, "missed", image), objects(1, image.false, "false", image)
        counts = [(what, len(getattr(image, what))) for what in ("missed", "false", "confused", "right")]
        caption = f"{entry['file_name']}: {', '.join(f'{count} {what}' for what, count in counts if count)}"
        pictures.append(Picture(f"worst_{number:02d}", draw_pair(pixels, *sides, largest=LARGEST), caption))
    return pictures
