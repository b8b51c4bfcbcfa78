"""What the tools measure: backbones, operators, evaluations, trainings, sizes and costs; imported by nothing else.

`python tools/benchmark.py` finds this package beside itself, the processes that it starts inherit the path, and pytest
is told it in pyproject.toml.
"""

import localvit_det  # noqa: F401 - registers everything, and mends what stands in the way of importing MMDetection
