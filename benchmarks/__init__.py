"""What measures the package and makes the tables of docs/: `python -m benchmarks.backbones --help`, and so on."""

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
