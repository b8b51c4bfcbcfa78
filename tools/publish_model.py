"""Publishes a detector: `python tools/publish_model.py CHECKPOINT`, the same as `localvit publish`."""

from functools import partial

from localvit.__main__ import run

main = partial(run, "publish")

if __name__ == "__main__":
    main()
