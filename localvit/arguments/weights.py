"""Lists the official files of all published networks: `localvit weights`, `localvit weights dwnet`.

The addresses are those that the authors give; the accuracy is theirs, and not reproduced here. `--pretrained official`
downloads the file of a config's backbone where that is possible; others are downloaded by hand and given as
`--pretrained FILE`, as they are.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import Parser


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("pattern", nargs="*", help="only networks whose names hold these texts, in any case")
    parser.add_argument("--json", action="store_true", help="write the list as JSON, with layouts and both addresses")
    return parser.parse_args(argv)
