"""docs/quickstart.ipynb runs as it stands, on fewer images."""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

CELLS = [
    "".join(cell["source"])
    for cell in json.loads((REPOSITORY / "docs/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
SIZES = "images, epochs = 400, 8"


@pytest.mark.slow
def test_notebook(tmp_path):
    assert CELLS[0].count(SIZES) == 1
    code = "\n\n".join(CELLS).replace(SIZES, "images, epochs = 40, 2").replace("score=0.5", "score=0.0")
    (tmp_path / "quickstart.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "quickstart.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"LOCALVIT_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("box AP" in line for line in lines) == 1
    assert sum(".jpg" in line and "[" in line for line in lines) == 3
    found, before = (int(word) for word in lines[-1].split() if word.isdigit())
    assert found == before > 0
