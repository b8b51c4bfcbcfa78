"""Looks at the installation and the machine: `localvit doctor`.

Names what does not fit, each with the command that fixes it; the exit code is 1 then. Its output belongs into bug
reports: it holds versions, hardware and settings, and no paths.
"""

import argparse
from collections.abc import Sequence


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="write everything as JSON")
    return parser.parse_args(argv)
