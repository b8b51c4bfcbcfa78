"""Lists the configs that come with the package, as `read_configs` says."""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from localvit_det.cli import Parser, aligned, handle_user_errors
from localvit_det.config_names import config_folder, config_names
from localvit_det.errors import ConfigError, did_you_mean

HEAD = (
    "config", "backbone", "epochs", "iterations", "image", "parameters", "multiply-adds", "published box / mask AP"
)  # fmt: skip


def read_configs(argv: Sequence[str] | None) -> argparse.Namespace:
    """Lists the configs that come with the package: `localvit configs`, `localvit configs shuffle`.

    Sizes and costs are computed (multiply-adds of one image of the size shown); AP on COCO val2017 and mIoU on ADE20K
    are the papers', which this package has not repeated. `localvit train NAME` takes the names, and a config of your
    own `_base_ = "localvit_det::NAME.py"`.
    """
    parser = Parser(inspect.getdoc(read_configs))
    parser.add_argument("pattern", nargs="*", help="only names that hold these texts")
    parser.add_argument("--json", action="store_true", help="write the list as JSON, with the file of each config")
    return parser.parse_args(argv)


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table."""
    args = read_configs(argv)
    found = [one for one in describe() if all(text in one["config"] for text in args.pattern)]
    if not found:
        asked = " ".join(args.pattern)
        raise ConfigError(f"No config has '{asked}' in its name{did_you_mean(asked, config_names())}.")
    if args.json:
        files = {name: str(config_folder() / f"{name}.py") for name in config_names()}
        sys.stdout.write(json.dumps([{**one, "file": files[one["config"]]} for one in found], indent=1) + "\n")
        return
    rows = [HEAD, *(tuple(map(readable, one.values())) for one in found)]
    sys.stdout.write(aligned(rows, right=range(2, 7)) + "\n")


def describe() -> list[dict[str, Any]]:
    """Return what the metafiles say about each config, and its name alone where they say nothing."""
    metadata: dict[str, dict] = {}
    for file in (config_folder() / "metafiles").glob("*.yml"):
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["Models"]:
            metadata[model["Name"]] = model["Metadata"]
    keys = ("Epochs", "Iterations", "Image Size", "Parameters", "FLOPs", "Published AP")
    return [
        dict(zip(HEAD, (name, facts.get("Architecture", [None])[-1], *map(facts.get, keys)), strict=True))
        for name in config_names()
        for facts in [metadata.get(name, {})]
    ]


def readable(value: object) -> str:
    """Return a cell of the table."""
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value / 1e9:.1f}G" if value >= 10**9 else f"{value / 1e6:.1f}M"
    return str(value)
