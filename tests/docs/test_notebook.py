"""docs/quickstart.ipynb runs as it stands, on fewer images."""

import json

import pytest
from conftest import REPOSITORY

CELLS = [
    "".join(cell["source"])
    for cell in json.loads((REPOSITORY / "docs/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
SIZES = "images, epochs = 400, 8"


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_notebook(tmp_path, monkeypatch, capsys):
    assert CELLS[0].count(SIZES) == 1
    code = "\n\n".join(CELLS).replace(SIZES, "images, epochs = 20, 1").replace("score=0.5", "score=0.0")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert sum("box AP" in line for line in lines) == 1
    assert sum(".jpg" in line and "[" in line for line in lines) == 2  # a tenth of the images
    found, before = (int(word) for word in lines[-1].split() if word.isdigit())
    assert found == before > 0
