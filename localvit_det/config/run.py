"""The settings that a run was started with: kept in its config, and taken up by what goes on from the run.

A training writes them under `started_with` into the config in its work dir: the name of the config file, the options
and the switches. `--resume`, and tests and predictions with a config file, repeat them; what is given now counts over
them. What differs then is shown, and refused where data, classes or architecture differ and no option says so.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoint.config_text import parse
from ..config_names import Typed
from ..deprecation import RENAMED_IN_CONFIGS
from ..errors import ConfigError

STARTED = "started_with"
# Options that say where a training begins, and where it writes: what goes on from it has both already.
_FOR_THE_START = ("pretrained", "warm_start", "load_from", "load_policy", "resume", "work_dir")
# Names that decide nothing of what is computed.
_WITHOUT_EFFECT = {
    *_FOR_THE_START,
    *("launcher", "auto_resume", "runner_type", "draw", "experiment_name", "strategy", "completed_with", STARTED),
    *("recognized", "verbose", "visualizer", "vis_backends", "log_level", "custom_imports", "augmentation"),
}
OF_TESTS = ("model", "test_dataloader", "test_evaluator", "test_cfg")
_OF_TRAINING = re.compile(r"(?:frozen_stages|norm_eval|with_cp|recompute_activations)(?:\.|$)")  # in a model
_LONG = 60  # characters of a value in a table


@dataclass(frozen=True)
class _Kind:
    """Differences that have to be named: their dotted keys, and the options that name all of them."""

    name: str
    keys: re.Pattern
    options: frozenset[str]


_OF_A_SET = r"pipeline|metainfo|serialize_data|lazy_init|max_refetch|backend_args|cache"
_KINDS = (
    _Kind("classes", re.compile(r"classes(\.|$)|.*\b(metainfo|num_(things_)?classes)\b"), frozenset({"classes"})),
    _Kind(
        "data",
        re.compile(rf"\w+_dataloader\.(?!.*\b({_OF_A_SET})\b)dataset\b|\w+_evaluator\..*\bann_file$"),
        frozenset({"data_root", "val_split", "draw", "classes", "crowds_as_objects"}),
    ),
    _Kind(
        "architecture",
        re.compile(r"model\.(?!.*\b(frozen_stages|norm_eval|with_cp|recompute_activations|data_preprocessor)\b)"
                   r"(?!.*\b(train_cfg|test_cfg|loss\w*|drop\w*)\b)"),
        frozenset({"with_mask"}),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training that has been started.

    Attributes:
        source: The file that says so.
        config: Its config, complete.
        file: The config file that it was started with; empty where the run does not say so.
        options: Of its command line.
        switches: Likewise, by name.
    """

    source: Path
    config: Mapping[str, Any]
    file: str
    options: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)

    def over(self, options: Mapping[str, Any], of_its_classes: bool = False) -> dict[str, Any]:
        """Return the options of the run with those of a command over them.

        Args:
            of_its_classes: Name the classes instead of reading them from data once more.
        """
        kept = {key: value for key, value in self.options.items() if key not in _FOR_THE_START}
        if kept and (repeated := kept.keys() - options.keys()):
            said = " ".join(f"{key}={kept[key]}" for key in sorted(repeated))
            print_log(f"As {self.source} was started: {said}.", "current")
        # 'auto' would take the classes of other data.
        if (of_its_classes or "data_root" in options) and self.config.get("classes"):
            kept["classes"] = list(self.config["classes"])
        return {**kept, **options}

    def check(self, cfg: Config, options: Collection[str], parts: Collection[str] = ()) -> None:
        """Show what a config has changed since the run was started (a training that goes on has a table of its own).

        Args:
            cfg: What is to be done now.
            options: Keys of the options that were given for it.
            parts: Top-level names to look at; without any all that a training needs.

        Raises:
            ConfigError: Data, classes or architecture differ, and no option names that.
        """
        found = changes(self.config, cfg, parts)
        found = {key: pair for key, pair in found.items() if not parts or not _OF_TRAINING.search(key)}
        rows = [(key, was, now, kind) for key, (was, now) in found.items() if (kind := _unnamed(key, options))]
        if rows:
            kinds = ", ".join(dict.fromkeys(kind for *_, kind in rows))
            listed = "; ".join(f"{key} was {_short(was)} and is {_short(now)}" for key, was, now, _ in rows[:4])
            more = f"; and {len(rows) - 4} more" if len(rows) > 4 else ""
            same = not self.file or Path(self.file).stem == Path(cfg.filename or self.file).stem
            other = "" if same else f", started with {self.file}"
            raise ConfigError(
                f"This config differs from that of the run ({self.source}{other}) in {kinds}: {listed}{more}; give the "
                "config of the run as it was, or name what shall differ by --cfg-options."
            )
        if found and parts:
            print_log(f"Changed since the run was started:\n{as_table(found)}", "current")


def remember(
    cfg: Config, file: str, options: Mapping[str, Any], switches: Mapping[str, Any], run: Run | None = None
) -> None:
    """Write into a config what its training is started with.

    Args:
        file: The config file.
        options: Of the command line.
        switches: Likewise; those that are None were not given.
        run: What the training goes on from.
    """
    options = {**(run.options if run else {}), **options}
    cfg[STARTED] = {
        "config": str(file),
        "work_dir": os.path.realpath(cfg.work_dir),
        "options": [[key, str(value) if isinstance(value, Typed) else value] for key, value in options.items()],
        "switches": {key: value for key, value in switches.items() if value is not None},
    }


def run_config(folder: str | os.PathLike) -> tuple[Path, dict[str, Any]] | None:
    """Return the config that the last training in a work dir has left there, as it was complete, and its file."""
    files = [path for path in Path(folder).glob("*.py") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            values = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no config, or none that MMEngine has written
            continue
        if "model" in values and "_base_" not in values:
            return path, values
    return None


def find_run(place: str | os.PathLike) -> Run | None:
    """Return the run of a work dir, or of a file in one; None where none says what it was started with.

    What a checkpoint says itself is not asked: it may be of a stranger, and a work dir is the user's. The folder of a
    file may have come with it, so a training has to have been started in that very place.
    """
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    found = run_config(folder)
    started = found[1].get(STARTED) if found else None
    if found is None or not isinstance(started, dict):
        return None
    if folder != Path(place) and started.get("work_dir") != os.path.realpath(folder):
        print_log(
            f"The settings in {found[0]} are not repeated for {place}, since no training was started in that place: "
            f"name the work dir {folder} if it is yours.",
            "current",
            logging.WARNING,
        )
        return None
    options = {str(key): Typed(value) if isinstance(value, str) else value for key, value in started.get("options", [])}
    return Run(*found, str(started.get("config", "")), options, dict(started.get("switches") or {}))


def find_old_run(place: str | os.PathLike) -> Run | None:
    """Return what a run of an earlier version left, which has its config, but not what it was started with."""
    found = run_config(Path(place).parent if Path(place).is_file() else place)
    return Run(*found, file="") if found and STARTED not in found[1] else None


def say_unknown(place: object) -> None:
    """Say that a run does not say what it was started with."""
    print_log(
        f"{place} does not say what its training was started with, as those of earlier versions do not: only the "
        "config and the options that are given now count.",
        "current",
        logging.WARNING,
    )


def changes(was: Mapping[str, Any], now: Mapping[str, Any], parts: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two configs, by dotted keys: before and after; None where there is none.

    Args:
        was: A config, complete.
        now: Another one.
        parts: Top-level names to look at; without any all that decide something.
    """
    before, after = (dict(_leaves(one, parts)) for one in (was, now))
    keys = [*before, *(key for key in after if key not in before)]
    found = {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
    return {key: pair for key, pair in found.items() if pair not in ((None, []), ([], None), (None, {}), ({}, None))}


def as_table(found: Mapping[str, tuple[Any, Any]], extra: tuple[str, Mapping[str, str]] | None = None) -> str:
    """Return lines for the log: setting, was, now.

    Args:
        extra: Head and cells of one more column.
    """
    rows = [("setting", "was", "now", *([extra[0]] if extra else []))]
    rows += [
        (key, _short(was), _short(now), *([extra[1].get(key, "")] if extra else []))
        for key, (was, now) in found.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _unnamed(key: str, options: Iterable[str]) -> str | None:
    """Return the kind of a difference that some option has to name, and none does."""
    kind = next((kind for kind in _KINDS if kind.keys.match(key)), None)
    if kind is None:
        return None
    for option in options:
        if option in kind.options or f"{key}.".startswith(f"{option}.") or f"{option}.".startswith(f"{key}."):
            return None
    return kind.name


def _leaves(config: Mapping[str, Any], parts: Collection[str]) -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if name in parts if parts else name not in _WITHOUT_EFFECT and not name.startswith("test_"):
            yield from _flat(name, value)


def _flat(key: str, node: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            if name not in ("init_cfg", "pretrained"):  # replaced by what is gone on from
                yield from _flat(f"{key}.{RENAMED_IN_CONFIGS.get(name, name)}", child)
    elif isinstance(node, (list, tuple)) and any(isinstance(child, Mapping) for child in node):
        for index, child in enumerate(node):
            yield from _flat(f"{key}.{index}", child)
    else:
        yield key, list(map(_plain, node)) if isinstance(node, (list, tuple)) else _plain(node)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(map(_plain, value))
    if isinstance(value, str):
        return RENAMED_IN_CONFIGS.get(value, value)
    return value if value is None or isinstance(value, (bool, int, float, str, dict)) else str(value)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
