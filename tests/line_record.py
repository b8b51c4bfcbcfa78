"""A pytest plugin that writes down which lines of the package each passed test runs, and how long it takes.

For tools/mutate.py: `PYTHONPATH=tests python -m pytest -p line_record -m "not slow and not measuring"`.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

import pytest

ROOT = Path(__file__).parent.parent
FILE = ROOT / "work_dirs/line_record.json"
PACKAGE = str(ROOT / "localvit_det")
_record: dict[str, dict] = json.loads(FILE.read_text()) if FILE.is_file() else {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    lines, start = defaultdict(set), time.perf_counter()

    def trace(frame: FrameType, event: str, _: object) -> object:
        if event == "line":
            lines[frame.f_code.co_filename].add(frame.f_lineno)
        return trace if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(trace)
    result = yield
    sys.settrace(None)
    ran = {str(Path(file).relative_to(ROOT)): sorted(numbers) for file, numbers in lines.items()}
    if item.nodeid not in _record or _record[item.nodeid]:
        _record[item.nodeid] = {"seconds": time.perf_counter() - start, "lines": ran}
    if len(_record) % 100 == 0:
        pytest_sessionfinish()
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome != "passed":
        _record[report.nodeid] = {}


def pytest_sessionfinish() -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({name: test for name, test in _record.items() if test}))
