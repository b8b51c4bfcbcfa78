"""Converts a checkpoint: `python tools/convert_checkpoint.py SOURCE TARGET`, the same as `localvit convert`."""

from functools import partial

from localvit.__main__ import run

main = partial(run, "convert")

if __name__ == "__main__":
    main()
