"""Computes size and cost of the configs of Mask R-CNN, Cascade and RetinaNet: `python tools/model_zoo.py`.

Writes docs/model_zoo.md, the table of models in README.md, and the metafiles.

With `--check` nothing is written, and a file that is not what the configs give ends with exit code 1.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from benchmarking.zoo import compute, config_paths, generate
from localvit_det.cli import tells_mistakes
from localvit_det.errors import UserError
from localvit_det.files import write_text

ROOT = Path(__file__).resolve().parent.parent


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Writes or checks the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the files are current")
    args = parser.parse_args(argv)
    logging.getLogger("mmengine").setLevel(logging.WARNING)

    stale = []
    entries = compute(config_paths(ROOT / "configs"))
    for name, content in generate(entries, (ROOT / "README.md").read_text(encoding="utf-8")).items():
        path = ROOT / name
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, content)
            print(f"wrote {name}")
    if args.check and stale:
        raise UserError(f"Not what the configs give: {', '.join(stale)}; run `python tools/model_zoo.py`.")


if __name__ == "__main__":
    main()
