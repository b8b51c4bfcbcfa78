"""The config inside a checkpoint, read as data: what a text may say is parsed, and nothing of it is ever run.

MMEngine keeps a training's config as Python text, and runs that text to read it. Here assignments of plain values
are taken, anything else is refused by name and line. What plain values may still ask for (`type='os.system'`) is the
business of `embedded_policy`.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CheckpointError
from .embedded_policy import vet

_MAX_CHARACTERS = 4_000_000  # MMDetection's own configs have 20,000
_MAX_DEPTH = 60
_MAX_LINE = 110
_FLOATS = {"inf": math.inf, "nan": math.nan}  # how Python prints them is no literal
# A key is written between quotes as it is by MMEngine, so that a quote in it would begin a piece of code.
_BAD_KEY = re.compile(r"['\"\\\x00-\x1f\x7f]")


class NotPlain(ValueError):
    """A text that is no row of plain assignments; the message names what and where."""


def read_config(content: Mapping[str, Any], source: object, trusted: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The config that a checkpoint carries, as plain values that ask for nothing outside the model and its data.

    Args:
        content: The checkpoint.
        source: Its name for messages.
        trusted: Also take imports, types and addresses of others; the text is not run for that either.

    Returns:
        Values by name, and a sentence for each setting that was left out.

    Raises:
        CheckpointError: There is none, it is a program, or it asks for code of others.
    """
    text = next((texts[key] for texts, key in _places(content)), None)
    if not text:
        raise CheckpointError(f"{source} carries no config: give its config as well.")
    try:
        return vet(parse(text), trusted)
    except ValueError as error:
        raise CheckpointError(
            f"The config in {source} is refused: {error}; give a config file of your own instead of it."
        ) from error


def defuse(content: Mapping[str, Any], source: object) -> None:
    """Replaces config texts in a checkpoint, which MMEngine may run, by the same as data, or by their refusal."""
    for texts, key in _places(content):
        try:
            texts[key] = as_text(vet(parse(texts[key]), trusted=False)[0])
        except ValueError as error:
            texts[key] = f"raise RuntimeError({f'The config in {source} is refused: {error}.'!r})\n"


def parse(text: object) -> dict[str, Any]:
    """Reads assignments of numbers, texts, lists, tuples and dicts (`{...}` or `dict(...)`).

    Raises:
        NotPlain: There is anything else in the text.
    """
    if not isinstance(text, str):
        raise NotPlain(f"it is a {type(text).__name__} and no text")
    if len(text) > _MAX_CHARACTERS:
        raise NotPlain(f"it has {len(text):,} characters, where at most {_MAX_CHARACTERS:,} are read")
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
        target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
        if not isinstance(target, ast.Name):
            raise _refusal(statement)
        values[target.id] = _value(statement.value, 0)
    return values


def as_text(values: Mapping[str, Any]) -> str:
    """Writes values as assignments which `parse`, and MMEngine as well, reads back.

    Raises:
        NotPlain: A value is none of those that `parse` gives.
    """
    for name in values:
        if not _is_name(name):
            raise NotPlain(f"{name!r} cannot be a name at the top of a config")
    return "".join(f"{name} = {_written(value, 0)}\n" for name, value in values.items())


def _places(content: Mapping[str, Any]) -> Iterator[tuple[dict, str]]:
    """Where MMEngine (two places) and MMDetection 2 (`config`) put the text: the dicts that hold it, and its key."""
    meta = content.get("meta")
    hub = content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    for texts, key in ((meta, "cfg"), (info, "cfg"), (meta, "config")):
        if isinstance(texts, dict) and texts.get(key):
            yield texts, key


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
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_key(key): _value(value, depth + 1) for key, value in zip(keys, values, strict=True)}
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


def _refusal(node: ast.AST) -> NotPlain:
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
