"""One small set of results for all tests of the analysis."""

from pathlib import Path

import pytest
from made_results import write_predictions, write_shapes

from localvit_det.analysis.coco import Evaluation, evaluate


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A folder with `predictions.json` of its val set."""
    root = write_shapes(tmp_path_factory.mktemp("results") / "shapes")
    write_predictions(root)
    return root


@pytest.fixture(scope="session")
def evaluation(results) -> Evaluation:
    annotations = results / "annotations/instances_val2017.json"
    return evaluate(annotations, results / "predictions.json", images=results / "val2017")
