"""Configs as text: what is parsed, and what is refused by name and line."""

import math

import pytest
from checkpoint_cases import config_refusal

from localvit_det.checkpoint.config_text import NotPlain, as_text, parse


def test_plain_values_are_read():
    text = (
        '"""A comment."""\na = 1\nb = -2.5e-3\nc = [True, None, (1,), ()]\n'
        "d = dict({'x.y': dict(k='v')}, z={3: []})\ne = inf\nf = -inf\ng = 'quote\\' and \\n'\n"
    )
    values = parse(text)
    assert values == {
        "a": 1, "b": -0.0025, "c": [True, None, (1,), ()], "d": {"x.y": {"k": "v"}, "z": {3: []}},
        "e": math.inf, "f": -math.inf, "g": "quote' and \n",
    }  # fmt: skip
    assert parse(as_text(values)) == values
    assert math.isnan(parse(as_text({"n": math.nan}))["n"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x_ = __import__('os').system('true')", "a call of __import__('os').system"),
        ("__import__('os').system('true')", "code (Expr)"),
        ("import os", "an import"),
        ("from os import system", "an import"),
        ("x = model", "the name model for a value"),
        ("x = 9 ** 9 ** 9", "a computation"),
        ("x = 'a' * 10 ** 9", "a computation"),
        ("x = 1 + 1", "a computation"),
        ("x = [i for i in (1, 2)]", "code (ListComp)"),
        ("x = lambda: 0", "code (Lambda)"),
        ("x = f'{1}'", "code (JoinedStr)"),
        ("x = dict(**{'a': 1})", "a call of dict"),
        ("x = {**{'a': 1}}", "code (Dict)"),
        ("x = dict([('a', 1)])", "a call of dict"),
        ("x = b'bytes'", "code (Constant)"),
        ("x = model.type", "code (Attribute)"),
        ("x = y = 1", "code (Assign)"),
        ("x, y = 1, 2", "code (Assign)"),
        ("x.y = 1", "code (Assign)"),
        ("x: int = 1", "code (AnnAssign)"),
        ("x = (y := 1)", "code (NamedExpr)"),
        ("def f(): pass", "code (FunctionDef)"),
        ("if True: x = 1", "code (If)"),
        ("x = float('1')", "a call of float"),
        ("x = '{{ fileDirname }}'", "a template in a text"),
        ("x = '{{$HOME:/}}/x'", "a template in a text"),
        ("x = {'a\\': 1, __import__(\"os\"): 2, \\'b': 1}", "no plain name"),
        ("x = {(1, 2): 3}", "no plain name"),
        ("x = " + "[" * 150 + "]" * 150, "nested"),
        ("x = " + "-" * 5000 + "1", ""),
        ("x = (", "was never closed"),
    ],
)
def test_program_is_refused_by_name_and_line(line, words):
    for trusted in (False, True):
        sentence = config_refusal("model = dict(type='RetinaNet')\n" + line, trusted)
        assert words in sentence
        assert "line 2" in sentence or "cannot be parsed" in sentence


def test_what_is_no_text_or_too_long():
    assert "no text" in config_refusal(["x"])
    assert "characters" in config_refusal("#" * 400_001)


def test_what_cannot_be_written():
    with pytest.raises(NotPlain, match="cannot be written"):
        as_text({"x": object()})


@pytest.mark.parametrize(
    "text",
    [
        "{" + '"model": ' * 2,
        '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model": {"type": "RetinaNet", "n": ' + "9" * 5000 + "}}",
        '{"$schema": "http://x", "model": {"type": "exec"}}',
        '{"_base_": "x.py"}',
        "[1]",
    ],
    ids=["cut off", "nested", "digits", "schema", "parent", "list"],
)
def test_json_that_is_no_config(text):
    config_refusal(text)
