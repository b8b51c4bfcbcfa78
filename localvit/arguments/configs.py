"""Lists the configs that come with the package: `localvit configs`, `localvit configs shuffle`.

Sizes and costs are computed (multiply-adds of one image of the size shown); AP on COCO val2017 and mIoU on ADE20K are
the papers', which this package has not repeated. `localvit train NAME` takes the names, and a config of your own
`_base_ = "localvit_det::NAME.py"`.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import Parser


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("pattern", nargs="*", help="only names that hold these texts")
    parser.add_argument("--json", action="store_true", help="write the list as JSON, with the file of each config")
    return parser.parse_args(argv)
