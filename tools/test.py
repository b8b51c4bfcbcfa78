"""Evaluates a checkpoint: `python tools/test.py CONFIG CHECKPOINT`, the same as `localvit test`."""

from functools import partial

from localvit.__main__ import run

main = partial(run, "test")

if __name__ == "__main__":
    main()
