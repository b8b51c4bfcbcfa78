"""Trains every nano config under one budget with several seeds and compares them: `python tools/compare_families.py`.

Writes means and spreads to docs/families.md and docs/families.png. Finished trainings are skipped, stopped ones go on;
`--summary-only` trains nothing and writes both again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarking.families import (
    ROOT,
    budget,
    check_equal_budgets,
    folder_of,
    is_finished,
    page,
    read_family,
    train,
)
from benchmarking.families_plot import BASELINES, draw
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training of each family for each")
    parser.add_argument("--epochs", type=int, default=3, help="of each training, %(default)s by default")
    parser.add_argument("--summary-only", action="store_true", help="train nothing")
    args = parser.parse_args(argv)

    configs = {
        path: load_config(path, budget(args.epochs))
        for path in sorted((ROOT / "configs").glob("mask_rcnn_*_nano_shapes.py"))
    }
    check_equal_budgets(configs)
    # Seed by seed, so that a stopped comparison has seen every family.
    jobs = [(path, seed, folder_of(args.work_dir.resolve(), path, seed)) for seed in args.seeds for path in configs]
    unfinished = [job for job in jobs if not is_finished(job[0], configs[job[0]], *job[1:])]
    if args.summary_only and unfinished:
        names = ", ".join(f"{path.stem} (seed {seed})" for path, seed, _ in unfinished)
        raise UserError(f"Not trained yet: {names}; run `python tools/compare_families.py` without --summary-only.")
    if unfinished:
        check_writable_folder(args.out, "--out")
    for path, seed, folder in unfinished:
        train(path, configs[path], seed, folder)

    families = [
        read_family(cfg, [folder for config, _, folder in jobs if config == path]) for path, cfg in configs.items()
    ]
    families.sort(key=lambda family: (family.name in BASELINES, family.name))
    check_writable_folder(args.out, "--out")
    draw(families, args.out / "families.png")
    text = page(families, next(iter(configs.values())), args.seeds, "families.png")
    write_text(args.out / "families.md", text)
    print(f"wrote {args.out / 'families.md'} and families.png")


if __name__ == "__main__":
    main()
