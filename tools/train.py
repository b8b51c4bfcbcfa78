"""Trains a detector: `python tools/train.py CONFIG`, the same as `localvit train`."""

from functools import partial

from localvit.__main__ import run

main = partial(run, "train")

if __name__ == "__main__":
    main()
