"""The sampler of mutants: each is one change, and none of text."""

import ast

import pytest

from mutation import sample

SOURCE = '''"""A docstring with 1."""

def f(x: int = 3) -> Tuple[1]:
    """Another 2."""
    if x < 7 and not g(x, y):
        raise ValueError(f"{x + 1} is too small", 5)
    self.z = -x
    self.z += True
    print_log("5", 5)
    return x if x else 4
'''


@pytest.fixture
def changes(tmp_path, monkeypatch) -> list[str]:
    (tmp_path / "localvit_det/layers").mkdir(parents=True)
    (tmp_path / "localvit_det/layers/f.py").write_text(SOURCE)
    monkeypatch.setattr(sample, "ROOT", tmp_path)
    return [
        (line, ast.unparse(sample.mutated(file, path, number)), text)
        for file, path, number, line, text in sample.mutants("layers")
    ]


def test_places_and_changes(changes):
    texts = {(line, text) for line, _, text in changes}
    assert texts == {
        (3, "3 -> 4"),
        (5, "if x < 7 and (not g(x, y)): -> if not (x < 7 and (not g(x, y))):"),
        (5, "x < 7 and (not g(x, y)) -> x < 7 or not g(x, y)"),
        (5, "x < 7 -> x <= 7"),
        (5, "7 -> 8"),
        (5, "not g(x, y) -> g(x, y)"),
        (5, "g(x, y) -> g(y, x)"),
        (7, "self.z = -x -> pass"),
        (7, "-x -> x"),
        (8, "self.z += True -> self.z -= True"),
        (8, "self.z += True -> pass"),
        (8, "True -> False"),
        (10, "return x if x else 4 -> return None"),
        (10, "x if x else 4 -> 4 if x else x"),
        (10, "4 -> 5"),
    }
