"""Looks at a run, predictions, a dataset or a network, and writes one HTML page that needs no other file.

  localvit analyze RUN_DIR                   report of a training, of `localvit test … --report`, or of both
  localvit analyze results PREDICTIONS.json  the same for any predictions in the format of COCO's results
  localvit analyze data CONFIG               statistics and images of a dataset, split by split
  localvit analyze runs RUN_DIR RUN_DIR …    learning curves of several trainings
  localvit analyze field MODEL               effective receptive fields of a backbone
  localvit analyze windows MODEL IMAGE       what single tokens of an image see, block by block

`localvit analyze results --help` and so on have the arguments. MODEL is a config, or a checkpoint or work dir.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from localvit_det.analysis.coco import MEASURES
from localvit_det.analysis.page import Section, Table, readable, write_files, write_page
from localvit_det.cli import add_trust, handle_user_errors
from localvit_det.config.options import HELP, OptionsAction
from localvit_det.errors import ConfigError, did_you_mean
from localvit_det.files import check_writable, check_writable_folder

Sections = tuple[str, list[Section]]  # with the title of the page


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look, write the page, print the tables that fit a terminal."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] not in {*VERBS, "-h", "--help"}:
        if (hint := did_you_mean(argv[0], VERBS)) and not os.path.exists(argv[0]):
            raise ConfigError(f"There is no verb '{argv[0]}'{hint}: `localvit analyze --help` lists them.")
        argv.insert(0, "run")
    args = make_parser().parse_args(argv)
    if args.verb == "run" and not os.path.isdir(args.folder):
        raise ConfigError(
            f"{args.folder} is neither a folder nor one of {', '.join(VERBS)}: name the work dir of a run."
        )
    out = args.out or default_out(args)
    check_writable(out, "--out")
    if args.files:
        check_writable_folder(args.files, "--files")
    title, sections = VERBS[args.verb](args)
    write_page(out, title, sections)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Table) and part.name in PRINTED:
                sys.stdout.write(f"{section.title}\n{as_text(part)}\n\n")
    sys.stdout.write(f"written: {out}\n")
    if args.files:
        sys.stdout.write(f"and {len(write_files(args.files, sections))} files: {args.files}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return one parser for each verb, with what they share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    run = verbs.add_parser("run", help="report of a work dir; `run` may be left out")
    run.add_argument("folder", metavar="RUN_DIR", help="work dir of a training or a test")
    results = verbs.add_parser("results", help="report of predictions")
    results.add_argument("predictions", metavar="PREDICTIONS.json", help="in the format of COCO's results")
    results.add_argument("--annotations", required=True, metavar="FILE", help="ground truth in COCO's format")
    results.add_argument("--images", metavar="DIR", help="folder of the images; without it none is drawn")
    results.add_argument(
        "--pixel-range",
        nargs="+",
        type=float,
        metavar="VALUE",
        help="of images with more than 8 bits: the value that is white, or those of black and white",
    )
    for one in (run, results):
        one.add_argument("--overlap", type=float, default=0.5, help="of a right prediction (default: %(default)s)")
        one.add_argument("--score", type=float, default=0.3, help="of predictions that count (default: %(default)s)")
        one.add_argument("--worst", type=int, default=12, metavar="N", help="images to draw (default: %(default)s)")
        one.add_argument("--by", choices=MEASURES, default="mistakes", help="what makes an image the worst")

    data = verbs.add_parser("data", help="statistics and images of a dataset")
    data.add_argument("config", help="config, or its name; or a work dir, whose data are taken")
    data.add_argument("--splits", nargs="+", default=["train", "val"], choices=["train", "val", "test"])
    data.add_argument("--images", type=int, default=24, metavar="N", help="of each split (default: %(default)s)")
    data.add_argument("--seed", type=int, default=0, help="of the choice of images (default: %(default)s)")
    data.add_argument("--draw", action="store_true", help="let a dataset of synthetic shapes be drawn at its data_root")

    runs = verbs.add_parser("runs", help="learning curves of several trainings")
    runs.add_argument("folders", nargs="+", metavar="RUN_DIR", help="work dirs of trainings")

    field = verbs.add_parser("field", help="effective receptive fields of a backbone")
    field.add_argument("model", metavar="MODEL", help="config (random weights), checkpoint or work dir")
    field.add_argument("image", nargs="*", metavar="IMAGE", help="images to average over; without any: noise")
    windows = verbs.add_parser("windows", help="what tokens of an image see")
    windows.add_argument("model", metavar="MODEL", help="config (random weights), checkpoint or work dir")
    windows.add_argument("image", metavar="IMAGE", help="image file")
    windows.add_argument("--at", nargs="+", type=place, metavar="Y,X", help="tokens: shares of height and width")
    for one in (field, windows):
        one.add_argument("--size", type=int, default=448, help="pixels on the longer side (default: %(default)s)")
    for one in (data, field, windows):
        one.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
        add_trust(one)
    for one in (run, results, data, runs, field, windows):
        one.add_argument("--out", metavar="FILE.html", help="the page")
        one.add_argument("--files", metavar="DIR", help="also write charts, tables and pictures as files")
    return parser


def place(text: str) -> tuple[float, float]:
    """Read `0.5,0.25`."""
    numbers = tuple(map(float, text.split(",")))
    if len(numbers) != 2 or not all(0 <= number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text} is no place: give two shares from 0 to 1, as in 0.5,0.25")
    return numbers


def default_out(args: argparse.Namespace) -> str:
    """Return a place in the run's folder for a run, else here, by the verb's name."""
    return os.path.join(args.folder, "report.html") if args.verb == "run" else f"{args.verb}.html"


def run(args: argparse.Namespace) -> Sections:
    """Return the report of a work dir."""
    from localvit_det.analysis.report import report

    return report(args.folder, **settings_of(args))


def results(args: argparse.Namespace) -> Sections:
    """Return the report of predictions of any detector."""
    from localvit_det.analysis.coco import evaluate
    from localvit_det.analysis.results import result_sections

    pixels = args.pixel_range and (args.pixel_range if len(args.pixel_range) > 1 else args.pixel_range[0])
    evaluation = evaluate(args.annotations, args.predictions, images=args.images, pixel_range=pixels)
    return Path(args.predictions).name, result_sections(evaluation, **settings_of(args))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of `result_sections`."""
    for name in ("overlap", "score"):
        if not 0 <= getattr(args, name) <= 1:
            raise ConfigError(f"--{name} {getattr(args, name)} makes no sense: give a number from 0 to 1.")
    return {"overlap": args.overlap, "score": args.score, "measure": args.by, "count": max(0, args.worst)}


def data(args: argparse.Namespace) -> Sections:
    """Return pages of the datasets of a config."""
    from localvit_det.analysis.data import data_sections, read_splits
    from localvit_det.cli import read_arguments

    splits = read_splits(read_arguments(args), args.splits)
    return f"{Path(args.config).stem}: data", data_sections(splits, max(0, args.images), args.seed)


def runs(args: argparse.Namespace) -> Sections:
    """Return the curves of several work dirs."""
    from localvit_det.analysis.runs import run_sections

    return f"{len(args.folders)} trainings", run_sections(args.folders)


def field(args: argparse.Namespace) -> Sections:
    """Return the receptive fields of a backbone."""
    from localvit_det.analysis import networks

    check_size(args.size)
    backbone, cfg, trained = networks.load_backbone(args.model, args.cfg_options, args.trust_config)
    if args.image:
        images = [networks.prepared(networks.open_square(path, args.size, cfg), cfg) for path in args.image]
    else:
        images = [torch.randn(4, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))]
    sections = networks.field_sections(backbone, torch.cat(images), trained)
    return f"{Path(args.model).stem}: receptive field", sections


def windows(args: argparse.Namespace) -> Sections:
    """Return what tokens see."""
    from localvit_det.analysis import networks

    check_size(args.size)
    if args.at and len(args.at) > networks.MOST:
        raise ConfigError(f"--at has {len(args.at)} tokens, and {networks.MOST} can be told apart: leave some out.")
    backbone, cfg, _ = networks.load_backbone(args.model, args.cfg_options, args.trust_config)
    image = networks.open_image(args.image, args.size, cfg)
    return f"{Path(args.model).stem}: windows", networks.window_sections(
        backbone, image, cfg, args.at or networks.PLACES
    )


def check_size(size: int) -> None:
    """Refuse what no backbone could shrink 32 times."""
    if size < 32:
        raise ConfigError(f"--size {size} is too small: give 32 pixels or more.")


VERBS: dict[str, Callable[[argparse.Namespace], Sections]] = {
    "run": run,
    "results": results,
    "data": data,
    "runs": runs,
    "field": field,
    "windows": windows,
}
PRINTED = ("classes_bbox", "classes_segm", "splits", "runs", "fields")  # tables that are worth a terminal


def as_text(table: Table) -> str:
    """Return a table for a terminal."""
    rows = [list(table.head), *([readable(cell, table.digits) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
