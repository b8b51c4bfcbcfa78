"""`--cfg-options`: what is typed, before it is known which config it changes; `config.options` reads the values."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ConfigError

HELP = """override settings of the config: data_root="/data/my set" classes=auto optim_wrapper.optimizer.lr=1e-4.
VALUE is a number, True, False or None; a [list], a (tuple) or a {dict: of them}, in which words need no quotes;
'"a text in quotes"'; or else the text as it is, with its spaces, commas and brackets. A list without its brackets
(a,b) is taken where the config has a list now, for classes, and for numbers. Paths (data_root, ann_file, load_from
and the like) are always texts"""


class Typed(str):
    """A value as it was typed, which still has to be read by the config's present one."""


class OptionsAction(argparse.Action):
    """Collect `KEY=VALUE` in a dict, over one or several uses of the option.

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
        """Add what one use of the option gives."""
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


def add_short(parser: argparse.ArgumentParser, helps: Mapping[str, tuple[str, str]]) -> None:
    """Add short settings (`config.short_settings`) as options of a command.

    Args:
        helps: What stands for the value, and what the setting does, by names.
    """
    for name, (value, help) in helps.items():
        as_option = f"{name}={{}}".format  # `--epochs 3` is `--cfg-options epochs=3`
        parser.add_argument(
            f"--{name}", nargs=1, type=as_option, action=OptionsAction, dest="cfg_options", metavar=value, help=help
        )
