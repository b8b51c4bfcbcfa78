"""Checks the data of a config: `python tools/check_data.py CONFIG`, the same as `localvit check`."""

from functools import partial

from localvit.__main__ import run

main = partial(run, "check")

if __name__ == "__main__":
    main()
