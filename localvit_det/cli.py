"""What the commands share: arguments, the config, and how errors of the user are reported.

Arguments are read before PyTorch and MMDetection are imported, so nothing here imports them at once.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .config_names import HELP, OptionsAction
from .errors import ConfigError, DataError, UserError, did_you_mean, explain_limit, printable
from .files import DISK_ERRORS, what_is_there

if TYPE_CHECKING:
    from mmengine.config import Config

    from .config.run import Run

LEFT_OUT = 3  # the exit code where some of the items that were given are left out


class Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names only, and offers the nearest for one that it does not know.

    The description is printed as it is.
    """

    def __init__(self, description: str | None = None, **settings: Any) -> None:
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=kind, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """End with the message, and what was probably meant."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        if options := [name.partition("=")[0] for name in unknown if name.startswith("-")]:
            message += did_you_mean(options[0], self._options())
        elif unknown and "=" in unknown[0]:
            message += " (settings of the config stand behind --cfg-options)"
        super().error(message)

    def _options(self) -> set[str]:
        """Return the names of all options, those of subcommands as well."""
        names = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                names |= {name for parser in action.choices.values() for name in parser._options()}
        return names


def make_parser(description: str | None) -> Parser:
    """Return a parser with the arguments that MMDetection users know."""
    parser = make_config_parser(description)
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/CONFIG)")
    parser.add_argument("--verbose", action="store_true", help="show all lines of the log on the screen, too")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torchrun sets the variable LOCAL_RANK; older launchers pass the argument.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def make_config_parser(description: str | None) -> Parser:
    """Return a parser with the arguments that name and change a config."""
    parser = Parser(description)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--draw",
        action="store_true",
        help="let a dataset of synthetic shapes be drawn at its data_root; without this only at its default place",
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what changes a config, and what lifts the limits of those in files."""
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
    add_trust(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where a training or a test runs."""
    parser.add_argument(
        "--device", metavar="cpu|0|0,1", help="the CPU, or GPUs by their numbers, each in a process of its own"
    )


def use_devices(args: argparse.Namespace) -> None:
    """Let PyTorch see only the devices of `--device`, before it looks; raise ConfigError where it names none."""
    if args.device is None:
        return
    numbers = [] if args.device == "cpu" else args.device.removeprefix("cuda:").split(",")
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--device {args.device} names no devices: give cpu, or numbers of GPUs, as in 0 or 0,1.")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)


def check_devices(args: argparse.Namespace) -> None:
    """Raise ConfigError where PyTorch does not find what `--device` names."""
    import torch

    device = getattr(args, "device", None)
    if device not in (None, "cpu") and torch.cuda.device_count() < 1 + device.count(","):
        raise ConfigError(
            f"--device {device} names GPUs of which PyTorch finds {torch.cuda.device_count()}: give --device cpu, "
            "or look at `localvit doctor`."
        )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the switch that lifts what is asked of a file of weights from others."""
    parser.add_argument(
        *("--trust-file", "--trust-config"),
        dest="trust_config",
        action="store_true",
        help="you know who made the file of weights: take its whole config, which may import and name code of others, "
        "and run it if it is an exported model (.pt, .pt2)",
    )


def config_from(args: argparse.Namespace, run: Run | None = None) -> Config:
    """Load and complete the config that the arguments name; names that nothing reads go to `args.unread`.

    Args:
        run: What is gone on from: its options hold where none of the arguments changes them.

    Raises:
        UserError: The config is missing, broken or contradicts itself.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    check_devices(args)
    args.unread = []
    with also_unread(args):
        cfg = read_arguments(args, run, args.unread)
    cfg.launcher = args.launcher
    if args.verbose:
        cfg.verbose = True
    cfg.work_dir = work_dir_of(args, cfg)
    return cfg


def check_given(argument: str, path: str | None) -> None:
    """Raise DataError at once where the file or folder of an argument is missing: what reads it is imported in seconds.

    Addresses are for the work itself, as is what stands behind a `#`.
    """
    if not path or "://" in path or Path(path).expanduser().exists() or Path(path.rpartition("#")[0] or path).exists():
        return
    file = Path(path).expanduser().absolute()
    raise DataError(f"{argument} {file} does not exist ({what_is_there(file)}): correct the path.")


@contextmanager
def also_unread(args: argparse.Namespace) -> Iterator[None]:
    """Add the names that nothing reads to a mistake which ends a command before `check_config` raises all."""
    try:
        yield
    except UserError as mistake:
        mistake.others = [*mistake.others, *args.unread]
        raise


def work_dir_of(args: argparse.Namespace, cfg: Mapping[str, Any]) -> str:
    """Return the work dir that the arguments name, else the config, else the one by the config's name."""
    return args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)


def read_arguments(args: argparse.Namespace, run: Run | None = None, unread: list[UserError] | None = None) -> Config:
    """Load the config of `make_config_parser`'s arguments; as `config_from` and `load_config`."""
    from .config import load_config

    options = options_of(args)
    return load_config(args.config, run.over(options) if run else options, args.trust_config, unread=unread)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, by dotted keys."""
    return {**({"draw": True} if args.draw else {}), **(args.cfg_options or {})}


def handle_user_errors(main: Callable[[Sequence[str] | None], Any]) -> Callable[..., Any]:
    """Let a command end with one sentence and exit code 1 where the user has to fix something."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> Any:
        try:
            return main(argv)
        except UserError as error:
            _exit(*dict.fromkeys(map(format_error, (error, *error.others))))
        except KeyboardInterrupt:
            sys.stderr.write("Interrupted.\n")
            raise SystemExit(130) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                where = f" to {error.filename}" if error.filename else ""
                _exit(f"Nothing more can be written{where} ({error.strerror}): make room, or name another place.")
            from .engine.data_loader import explain_lost_evaluation

            sentence = explain_limit(error) or explain_lost_evaluation(error)
            if sentence is None:
                raise
            _exit(sentence)

    return run


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Return rows of a table as lines; the columns `right` end flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = [">" if index in right else "<" for index in range(len(widths))]
    form = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return "\n".join(form.format(*row).rstrip() for row in rows)


def _exit(*sentences: str) -> NoReturn:
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        sys.stderr.write("".join(f"error: {sentence}\n" for sentence in sentences))
    raise SystemExit(1) from None


def format_error(error: UserError) -> str:
    """Return the message of an error in one line, without what a data worker added to it."""
    text = str(error).strip()
    if text.startswith("Caught "):  # by torch: the worker's traceback follows, and the message behind its kind
        text = text.rpartition(f"{UserError.__module__}.")[2].partition(": ")[2] or text
    return printable(text)
