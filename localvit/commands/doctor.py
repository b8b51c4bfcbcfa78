"""Looks at the installation and the machine: `localvit doctor`.

Names what does not fit, each with the command that mends it; the exit code is 1 then. Its output belongs into bug
reports: it holds versions, hardware and settings, and no paths.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence

from localvit.examine import examine


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, looks, tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="write everything as JSON")
    args = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts, complaints = examine()
    if args.json:
        sys.stdout.write(json.dumps({**facts, "complaints": complaints}, indent=1) + "\n")
    else:
        for section, entries in facts.items():
            if entries:
                sys.stdout.write(f"{section}\n")
            for name, value in entries.items():
                shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
                sys.stdout.write(f"  {name}: {shown}\n")
        sys.stdout.write("\n" + ("".join(f"mend: {sentence}\n" for sentence in complaints) or "Everything fits.\n"))
    if complaints:
        raise SystemExit(1)
