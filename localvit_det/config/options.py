"""`--cfg-options KEY=VALUE`: values are what they look like, and texts stay as they were typed."""

import argparse
import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.config_text import parse
from ..errors import ConfigError

HELP = """override settings of the config: data_root="/data/my set" classes=auto optim_wrapper.optimizer.lr=1e-4.
VALUE is a number, True, False or None; a [list], a (tuple) or a {dict: of them}, in which words need no quotes;
'"a text in quotes"'; or else the text as it is, with its spaces, commas and brackets. A list without its brackets
(a,b) is taken where the config has a list now, for classes, and for numbers. Paths (data_root, ann_file, load_from
and the like) are always texts"""

# Last words of keys whose value is a path, whatever it looks like.
_PATHS = {
    *("data_root", "ann_file", "work_dir", "load_from", "resume_from", "pretrained", "checkpoint", "proposal_file"),
    *("img", "img_path", "seg", "out_dir", "save_dir", "outfile_prefix", "out_file_path"),
}
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NUMBER = re.compile(r"[+-]?(?:\d+|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?|inf)$")
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class Typed(str):
    """A value as it was typed, which still has to be read beside the config's present one."""


class OptionsAction(argparse.Action):
    """Collects `KEY=VALUE` in a dict, over one or several uses of the option.

    Raises:
        ConfigError: One has no `=`, or no key.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Adds what one use of the option gives."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for value in values or ():
            key, equals, typed = str(value).partition("=")
            if not equals or not key.strip():
                raise ConfigError(
                    f"The option '{value}' of {option_string} is not KEY=VALUE: put quotes round a value with spaces, "
                    f"{option_string} 'data_root=/data/my set'."
                )
            options[key.strip()] = Typed(typed)
        setattr(namespace, self.dest, options)


def read_options(options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options with values in place of what was typed; see `HELP` for the rules.

    Args:
        options: Dotted keys and values; values that are not `Typed` are kept.
        config: Where the keys point into.

    Raises:
        ConfigError: A list, tuple or dict is not closed.
    """
    return {
        key: _read(key, str(value), _present(config, key)) if isinstance(value, Typed) else value
        for key, value in options.items()
    }


def _read(key: str, text: str, present: object) -> Any:
    last = key.rpartition(".")[2]
    stripped = text.strip()
    if last in _PATHS:
        quoted = _quoted(stripped)
        return None if stripped == "None" else text if quoted is None else quoted
    words = last in ("classes", "CLASSES")  # names like 1e3 or None stay names
    if stripped[:1] in _CLOSING and _split(stripped) is None:
        raise ConfigError(
            f"The option {key}={text} does not close its brackets or quotes: correct them, or put quotes round a text "
            f"that begins so: {key}='\"{text}\"'."
        )
    is_list = isinstance(present, (list, tuple))
    parts = _split(stripped) or [stripped]
    if len(parts) > 1 and (is_list or words or all(_NUMBER.match(part.strip()) for part in parts)):
        values = [_element(key, part, words) for part in parts if part.strip()]
        return tuple(values) if isinstance(present, tuple) else values
    value = _element(key, stripped, words)
    return text if value == stripped else value


def _element(key: str, text: str, words: bool) -> Any:
    """One value without commas outside of brackets and quotes."""
    text = text.strip()
    quoted = _quoted(text)
    if quoted is not None:
        return quoted
    inside = _split(text[1:-1]) if text[:1] in _CLOSING and text.endswith(_CLOSING[text[0]]) else None
    if inside is not None:
        inside = [part for part in inside if part.strip()]
        if text[0] == "{":
            return dict(_pair(key, part, words) for part in inside)
        values = [_element(key, part, words) for part in inside]
        return tuple(values) if text[0] == "(" else values
    if words:
        return text
    if text.startswith("dict(") and text.endswith(")"):
        try:
            return parse(f"x = {text}")["x"]
        except ValueError:
            return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.match(text):
        return float(text) if re.search(r"[.eEi]", text) else int(text)
    return text


def _pair(key: str, text: str, words: bool) -> tuple[Any, Any]:
    name, colon, value = text.partition(":")
    if text.lstrip()[:1] in ("'", '"'):  # a colon in the quotes is part of the name
        end = text.index(text.lstrip()[0], len(text) - len(text.lstrip()) + 1) + 1
        colon, name, value = text[end:].lstrip()[:1], text[:end], text[end:].lstrip()[1:]
    if colon != ":":
        raise ConfigError(f"The option {key} has '{text.strip()}' in braces: write {{name: value}}.")
    return _element(key, name, words), _element(key, value, words)


def _quoted(text: str) -> str | None:
    """What stands in the quotes, if the whole text is one quoted text."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None


def _split(text: str) -> list[str] | None:
    """Parts between the commas that are in no brackets and no quotes; None where those do not close."""
    parts, start, open_, quote, begins = [], 0, [], "", True
    for index, char in enumerate(text):
        if quote:
            if char == quote and text[index - 1] != "\\":
                quote = ""
            continue
        if begins and char in "'\"":  # an apostrophe in a word opens nothing
            quote = char
        elif char in _CLOSING:
            open_.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if not open_ or open_.pop() != char:
                return None
        elif char == "," and not open_:
            parts.append(text[start:index])
            start = index + 1
        begins = char in ",:" or char in _CLOSING or (begins and char.isspace())
    return None if open_ or quote else [*parts, text[start:]]


def _present(config: Any, key: str) -> object:
    """What the config has under a dotted key now; None if nothing."""
    for part in key.split("."):
        if isinstance(config, (list, tuple)) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, Mapping):
            config = config.get(part)
        else:
            return None
    return config
