"""Lists the official files of all published networks: `localvit weights`, `localvit weights dwnet`.

The addresses are those that the authors give; the accuracy is theirs, and not repeated here. `--pretrained official`
downloads the file of a config's backbone where that is possible; others are downloaded by hand and given as
`--pretrained FILE`, as they are.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from localvit.commands.configs import write_table
from localvit_det.checkpoint.official import OfficialFile, official_files
from localvit_det.cli import handle_user_errors
from localvit_det.errors import ConfigError

HEAD = ("network", "top-1, published", "size, stated", "how", "address")


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="*", help="only networks whose names hold these texts, in any case")
    parser.add_argument("--json", action="store_true", help="write the list as JSON, with layouts and both addresses")
    args = parser.parse_args(argv)
    found = [one for one in official_files() if all(text.lower() in name(one).lower() for text in args.pattern)]
    if not found:
        raise ConfigError(f"No network has '{' '.join(args.pattern)}' in its name: leave it out to see all.")
    if args.json:
        sys.stdout.write(json.dumps([entry(one) for one in found], indent=1) + "\n")
        return
    rows = [
        (name(one), str(one.top1 or "-"), one.size or "-", how(one), one.direct or one.address or "-") for one in found
    ]
    write_table([HEAD, *rows], right=(1, 2))


def entry(one: OfficialFile) -> dict[str, Any]:
    """Return all that is known of a file."""
    return {"network": one.network, "settings": one.settings, **asdict(one), "layout": one.layout}


def name(one: OfficialFile) -> str:
    """Return a network and its size."""
    return " ".join([one.network, *(f"{value}".replace(" ", "") for value in one.settings.values())])


def how(one: OfficialFile) -> str:
    """Return how one gets the file."""
    if one.direct:
        return "--pretrained official" if one.direct == one.address else "--pretrained official (a copy by MMPretrain)"
    return "by hand, --pretrained FILE" if one.address else "none released"
