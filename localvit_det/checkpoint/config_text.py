"""Configs as text: parse the plain values of one without running it, and write values as text or JSON.

MMEngine keeps a training's config as Python text, and runs that text to read it. Here assignments of plain values
are taken, anything else is refused by name and line. Files that are published have the same values as JSON.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Mapping
from typing import Any

_MAX_CHARACTERS = 400_000  # MMDetection's own configs have 20,000
_MAX_DEPTH = 60
_TUPLE = "tuple"  # the only key of a dict that stands for one in JSON
_MAX_LINE = 110
_FLOATS = {"inf": math.inf, "nan": math.nan}  # how Python prints them is no literal
# A key is written between quotes as it is by MMEngine, so that a quote in it would begin a piece of code.
_BAD_KEY = re.compile(r"['\"\\\x00-\x1f\x7f]")


class NotPlain(ValueError):
    """A text that is no row of plain assignments; the message names what and where."""


def parse(text: object) -> dict[str, Any]:
    """Read assignments of numbers, texts, lists, tuples and dicts (`{...}` or `dict(...)`), or JSON.

    Raises:
        NotPlain: There is anything else in the text.
    """
    if not isinstance(text, str):
        raise NotPlain(f"it is a {type(text).__name__} and no text")
    if len(text) > _MAX_CHARACTERS:
        raise NotPlain(f"it has {len(text):,} characters, where at most {_MAX_CHARACTERS:,} are read")
    if text.lstrip().startswith("{"):
        return _from_json(text)
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise NotPlain(f"line {error.lineno} is not written in the form name = value ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotPlain(f"it cannot be parsed ({type(error).__name__})") from None
    values = {}
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a text without a name is a comment
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = _value(value, 0)
            case _:
                raise _refusal(statement)
    return values


def as_text(values: Mapping[str, Any]) -> str:
    """Write values as assignments that `parse` and MMEngine read back; raise NotPlain for others than `parse` gives."""
    for name in values:
        if not _is_name(name):
            raise NotPlain(f"{name!r} cannot be a name at the top of a config")
    return "".join(f"{name} = {_written(value, 0)}\n" for name, value in values.items())


def to_json(values: Mapping[str, Any]) -> str:
    """Write values as JSON which `parse` reads back, tuples included."""

    def marked(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: marked(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [marked(item) for item in value]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        return value

    return json.dumps(marked(values))


def _from_json(text: str) -> dict[str, Any]:
    def unmarked(value: dict) -> Any:
        return tuple(value[_TUPLE]) if value.keys() == {_TUPLE} and isinstance(value[_TUPLE], list) else value

    try:
        values = json.loads(text, object_hook=unmarked)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"it is no JSON that can be read ({type(error).__name__})") from None
    if not isinstance(values, dict):
        raise NotPlain("it is no dict")
    return values


def _value(node: ast.expr, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise NotPlain(f"line {node.lineno} is nested more than {_MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=str(value)) if "{{" in value:
            # MMEngine replaces what is in the braces, before it looks where a text ends.
            raise NotPlain(f"line {node.lineno} has a template in a text ({value[:40]!r})")
        case ast.Constant(value=value) if value is None or isinstance(value, (str, int, float)):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _value(operand, depth + 1)
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                return -number if isinstance(sign, ast.USub) else number
        case ast.Name(id=name) if name in _FLOATS:
            return _FLOATS[name]
        case ast.List(elts=items):
            return [_value(item, depth + 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, depth + 1) for item in items)
        case ast.Dict(keys=keys, values=values) if all(keys):  # None stands for `**`
            pairs = zip(keys, values, strict=True)
            return {_key(key): _value(value, depth + 1) for key, value in pairs if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=args, keywords=words) if all(word.arg for word in words):
            # MMEngine writes dict({...}) where a key is no name.
            if len(args) <= 1 and all(isinstance(arg, ast.Dict) for arg in args):
                first = _value(args[0], depth) if args else {}
                return {**first, **{word.arg: _value(word.value, depth + 1) for word in words}}
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(name))], keywords=[]) if name in _FLOATS:
            return _FLOATS[name]
    raise _refusal(node)


def _key(node: ast.expr) -> str | int:
    key = _value(node, 0)
    if isinstance(key, bool) or not isinstance(key, (str, int)) or (isinstance(key, str) and _BAD_KEY.search(key)):
        raise NotPlain(f"line {node.lineno} has the key {str(key)[:40]!r}, which is no plain name or number")
    return key


def _refusal(node: ast.expr | ast.stmt) -> NotPlain:
    said = " ".join(ast.unparse(node).split())[:60]
    match node:
        case ast.Call(func=function):
            what = f"a call of {ast.unparse(function)[:40]}"
        case ast.Name(id=name):
            what = f"the name {name} for a value"
        case ast.Import() | ast.ImportFrom():
            what = "an import"
        case ast.BinOp() | ast.UnaryOp() | ast.BoolOp() | ast.Compare():
            what = "a computation"
        case _:
            what = f"code ({type(node).__name__})"
    return NotPlain(f"line {node.lineno} has {what} where only plain values are read: {said}")


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _written(value: object, indent: int) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        sign = "-" if value == -math.inf else ""
        return f"{sign}float('{'nan' if math.isnan(value) else 'inf'}')"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    inner = " " * (indent + 4)
    if isinstance(value, Mapping):
        names = all(map(_is_name, value))
        opening, closing = ("dict(", ")") if names else ("{", "}")
        form = "{}={}" if names else "{!r}: {}"
        parts = [form.format(key, _written(item, indent + 4)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        opening, closing = "[]" if isinstance(value, list) else "()"
        parts = [_written(item, indent + 4) for item in value]
    else:
        raise NotPlain(f"a {type(value).__name__} ({str(value)[:40]}) cannot be written as a plain value")
    line = opening + ", ".join(parts) + ("," if isinstance(value, tuple) and len(parts) == 1 else "") + closing
    if len(line) + indent <= _MAX_LINE and "\n" not in line:
        return line
    return opening + "\n" + "".join(f"{inner}{part},\n" for part in parts) + " " * indent + closing
