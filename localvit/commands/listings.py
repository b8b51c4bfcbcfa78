"""Lists of configs and of official weights, which need neither PyTorch nor MMDetection."""

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from localvit_det.cli import Parser, aligned, handle_user_errors
from localvit_det.config_names import config_folder, config_names
from localvit_det.errors import ConfigError, did_you_mean

CONFIGS_HEAD = (
    "config", "backbone", "epochs", "iterations", "image", "parameters", "multiply-adds", "published box / mask AP"
)  # fmt: skip
WEIGHTS_HEAD = ("network", "top-1, published", "size, stated", "how", "address")
WEIGHTS_FILE = "metafiles/official_weights.json"  # written by tools/make_configs.py


def read_configs(argv: Sequence[str] | None) -> argparse.Namespace:
    """Lists the configs that come with the package: `localvit configs`, `localvit configs shuffle`.

    Sizes and costs are computed (multiply-adds of one image of the size shown); AP on COCO val2017 and mIoU on ADE20K
    are the papers', which this package has not repeated. `localvit train NAME` takes the names, and a config of your
    own `_base_ = "localvit_det::NAME.py"`.
    """
    return _read(argv, read_configs, "only names that hold these texts", "with the file of each config")


def read_weights(argv: Sequence[str] | None) -> argparse.Namespace:
    """Lists the official files of all published networks: `localvit weights`, `localvit weights dwnet`.

    The addresses are those that the authors give; the accuracy is theirs, and not reproduced here. `--pretrained
    official` downloads the file of a config's backbone where that is possible; others are downloaded by hand and given
    as `--pretrained FILE`, as they are.
    """
    texts = "only networks whose names hold these texts, in any case"
    return _read(argv, read_weights, texts, "with layouts and both addresses")


def _read(argv: Sequence[str] | None, reader: object, texts: str, with_what: str) -> argparse.Namespace:
    parser = Parser(inspect.getdoc(reader))
    parser.add_argument("pattern", nargs="*", help=texts)
    parser.add_argument("--json", action="store_true", help=f"write the list as JSON, {with_what}")
    return parser.parse_args(argv)


@handle_user_errors
def configs(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table."""
    args = read_configs(argv)
    found = [one for one in described_configs() if all(text in one["config"] for text in args.pattern)]
    if not found:
        asked = " ".join(args.pattern)
        raise ConfigError(f"No config has '{asked}' in its name{did_you_mean(asked, config_names())}.")
    if args.json:
        _write_json([{**one, "file": str(config_folder() / f"{one['config']}.py")} for one in found])
    else:
        rows = [CONFIGS_HEAD, *(tuple(map(_readable, one.values())) for one in found)]
        sys.stdout.write(aligned(rows, right=range(2, 7)) + "\n")


@handle_user_errors
def weights(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table."""
    args = read_weights(argv)
    every = json.loads((config_folder() / WEIGHTS_FILE).read_text(encoding="utf-8"))
    found = [one for one in every if all(text.lower() in _network(one).lower() for text in args.pattern)]
    if not found:
        raise ConfigError(f"No network has '{' '.join(args.pattern)}' in its name: leave it out to see all.")
    if args.json:
        _write_json(found)
    else:
        rows = [(_network(one), str(one["top1"] or "-"), one["size"] or "-", *_how(one)) for one in found]
        sys.stdout.write(aligned([WEIGHTS_HEAD, *rows], right=(1, 2)) + "\n")


def _write_json(found: list[dict[str, Any]]) -> None:
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def described_configs() -> list[dict[str, Any]]:
    """Return what the metafiles say about each config, and its name alone where they say nothing."""
    metadata: dict[str, dict] = {}
    for file in (config_folder() / "metafiles").glob("*.yml"):
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["Models"]:
            metadata[model["Name"]] = model["Metadata"]
    keys = ("Epochs", "Iterations", "Image Size", "Parameters", "FLOPs", "Published AP")
    return [
        dict(zip(CONFIGS_HEAD, (name, facts.get("Architecture", [None])[-1], *map(facts.get, keys)), strict=True))
        for name in config_names()
        for facts in [metadata.get(name, {})]
    ]


def _readable(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value / 1e9:.1f}G" if value >= 10**9 else f"{value / 1e6:.1f}M"
    return str(value)


def _network(one: Mapping[str, Any]) -> str:
    """Return a network and its size."""
    return " ".join([one["network"], *(f"{value}".replace(" ", "") for value in one["settings"].values())])


def _how(one: Mapping[str, Any]) -> tuple[str, str]:
    """Return how one gets the file, and where."""
    if one["direct"]:
        by_hand = one["direct"] != one["address"]
        return "--pretrained official" + (" (a copy by MMPretrain)" if by_hand else ""), one["direct"]
    return ("by hand, --pretrained FILE", one["address"]) if one["address"] else ("none released", "-")
