"""Trains every nano config under one budget and compares them: `python tools/compare_families.py`.

Writes a table to docs/families.md and curves to docs/families.png. Finished trainings are skipped, stopped ones go on;
`--summary-only` trains nothing and draws both again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarking.families import BASELINES, ROOT, check_equal_budgets, draw, is_finished, page, read_run, train
from localvit_det.cli import tells_mistakes
from localvit_det.config import load_config
from localvit_det.errors import UserError
from localvit_det.files import check_writable_folder, write_text


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is not finished, then writes the table and the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=ROOT / "work_dirs/families", help="where the trainings go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of families.md and families.png")
    parser.add_argument("--summary-only", action="store_true", help="train nothing")
    args = parser.parse_args(argv)

    configs = {path: load_config(path) for path in sorted((ROOT / "configs").glob("mask_rcnn_*_nano_shapes.py"))}
    check_equal_budgets(configs)
    folders = {path: args.work_dir.resolve() / path.stem for path in configs}
    unfinished = [path for path, cfg in configs.items() if not is_finished(path, cfg, folders[path])]
    if args.summary_only and unfinished:
        names = ", ".join(path.stem for path in unfinished)
        raise UserError(f"Not trained yet: {names}; run `python tools/compare_families.py` without --summary-only.")
    if unfinished:
        check_writable_folder(args.out, "--out")
    for path in unfinished:
        train(path, configs[path], folders[path])

    runs = [read_run(cfg, folders[path]) for path, cfg in configs.items()]
    runs.sort(key=lambda run: run.name in BASELINES)
    check_writable_folder(args.out, "--out")
    draw(runs, args.out / "families.png")
    write_text(args.out / "families.md", page(runs, next(iter(configs.values())), "families.png"))
    print(f"wrote {args.out / 'families.md'} and families.png")


if __name__ == "__main__":
    main()
