"""Lists the official files of all published networks, as `read_weights` says."""

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from localvit_det.cli import Parser, aligned, handle_user_errors
from localvit_det.config_names import config_folder
from localvit_det.errors import ConfigError

HEAD = ("network", "top-1, published", "size, stated", "how", "address")
FILE = "metafiles/official_weights.json"  # written by tools/make_configs.py


def read_weights(argv: Sequence[str] | None) -> argparse.Namespace:
    """Lists the official files of all published networks: `localvit weights`, `localvit weights dwnet`.

    The addresses are those that the authors give; the accuracy is theirs, and not reproduced here. `--pretrained
    official` downloads the file of a config's backbone where that is possible; others are downloaded by hand and given
    as `--pretrained FILE`, as they are.
    """
    parser = Parser(inspect.getdoc(read_weights))
    parser.add_argument("pattern", nargs="*", help="only networks whose names hold these texts, in any case")
    parser.add_argument("--json", action="store_true", help="write the list as JSON, with layouts and both addresses")
    return parser.parse_args(argv)


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table."""
    args = read_weights(argv)
    every = json.loads((config_folder() / FILE).read_text(encoding="utf-8"))
    found = [one for one in every if all(text.lower() in name(one).lower() for text in args.pattern)]
    if not found:
        raise ConfigError(f"No network has '{' '.join(args.pattern)}' in its name: leave it out to see all.")
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    rows = [
        (name(one), str(one["top1"] or "-"), one["size"] or "-", how(one), one["direct"] or one["address"] or "-")
        for one in found
    ]
    sys.stdout.write(aligned([HEAD, *rows], right=(1, 2)) + "\n")


def name(one: Mapping[str, Any]) -> str:
    """Return a network and its size."""
    return " ".join([one["network"], *(f"{value}".replace(" ", "") for value in one["settings"].values())])


def how(one: Mapping[str, Any]) -> str:
    """Return how one gets the file."""
    if one["direct"]:
        by_hand = one["direct"] != one["address"]
        return "--pretrained official" + (" (a copy by MMPretrain)" if by_hand else "")
    return "by hand, --pretrained FILE" if one["address"] else "none released"
