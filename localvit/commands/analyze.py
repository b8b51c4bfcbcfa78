"""Looks at trainings, data and networks in one HTML page, and compares two detectors, as `localvit.arguments` says."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from localvit.arguments.data import read_analyze
from localvit.arguments.models import read_compare
from localvit_det.analysis import compare as comparing
from localvit_det.analysis import networks
from localvit_det.analysis.coco import evaluate
from localvit_det.analysis.data import augmented_section, data_sections, read_splits
from localvit_det.analysis.page import Section, Table, readable, write_files, write_page
from localvit_det.analysis.report import report, run_sections
from localvit_det.analysis.results import result_sections
from localvit_det.cli import aligned, check_devices, handle_user_errors, read_arguments
from localvit_det.errors import ConfigError
from localvit_det.files import check_writable, check_writable_folder, write_text

Sections = tuple[str, list[Section]]  # with the title of the page


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look, write the page, print the tables that fit a terminal."""
    args = read_analyze(argv)
    in_place = os.path.join(args.folder, "report.html") if args.verb == "run" else f"{args.verb}.html"
    out = args.out or in_place
    check_writable(out, "--out")
    if args.files:
        check_writable_folder(args.files, "--files")
    title, sections = VERBS[args.verb](args)
    write_page(out, title, sections)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Table) and part.name in PRINTED:
                sys.stdout.write(f"{part.caption or section.title}\n{as_text(part)}\n\n")
    sys.stdout.write(f"written: {out}\n")
    if args.files:
        sys.stdout.write(f"and {len(write_files(args.files, sections))} files: {args.files}\n")


def run(args: argparse.Namespace) -> Sections:
    """Return the report of a work dir."""
    return report(args.folder, **settings_of(args))


def results(args: argparse.Namespace) -> Sections:
    """Return the report of predictions of any detector."""
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
    cfg, count = read_arguments(args), max(0, args.images)
    sections = data_sections(read_splits(cfg, args.splits), count, args.seed)
    if args.augmented:
        sections.append(augmented_section(cfg, count, args.seed))
    return f"{Path(args.config).stem}: data", sections


def runs(args: argparse.Namespace) -> Sections:
    """Return the curves of several work dirs."""
    return f"{len(args.folders)} trainings", run_sections(args.folders)


def field(args: argparse.Namespace) -> Sections:
    """Return the receptive fields of a backbone."""
    check_size(args.size)
    backbone, cfg, trained = networks.load_backbone(args.model, args.cfg_options, args.trust_config)
    if args.image:
        images = [networks.prepared(square, cfg) for square in networks.squares(args.image, args.size, cfg)]
    else:
        images = [torch.randn(4, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))]
    sections = networks.field_sections(backbone, torch.cat(images), trained)
    return f"{Path(args.model).stem}: receptive field", sections


def windows(args: argparse.Namespace) -> Sections:
    """Return what tokens see."""
    check_size(args.size)
    if args.at and len(args.at) > networks.MOST:
        raise ConfigError(f"--at has {len(args.at)} tokens, and {networks.MOST} can be distinguished: leave some out.")
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
    verb.__name__: verb for verb in (run, results, data, runs, field, windows)
}
PRINTED = ("classes_bbox", "classes_segm", "splits", "runs", "fields")  # tables that are worth a terminal
MOST_ROWS = 40  # of classes


def as_text(table: Table) -> str:
    """Return a table for a terminal; of many classes those with the most objects, and what holds for all."""
    chosen, more = list(table.rows), 0
    if "objects" in table.head and (more := max(0, len(chosen) - 1 - MOST_ROWS)):
        column = list(table.head).index("objects")
        chosen = [*sorted(chosen[:-1], key=lambda row: -int(row[column] or 0))[:MOST_ROWS], chosen[-1]]
    rows = [list(table.head), *([readable(cell, table.digits) for cell in row] for row in chosen)]
    text = aligned(rows, right=range(1, len(table.head)))
    return text + (f"\nand {more:,} classes with fewer objects, which the page has" if more else "")


@handle_user_errors
def compare(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, compare two detectors, print tables, write the file."""
    args = read_compare(argv)
    check_devices(args)
    settings = (args.resamples, args.seed, args.images, args.cfg_options, args.trust_config)
    found = comparing.compare(args.first, args.second, args.data, *settings)
    sys.stdout.write(f"\nfirst: {args.first}\nsecond: {args.second}\n{found.images} images, {found.device}\n")
    for table in found.tables():
        sys.stdout.write(f"\n{as_text(table)}\n")
    if args.json:
        write_text(args.json, json.dumps(asdict(found), indent=1) + "\n")
        sys.stdout.write(f"\nwritten: {args.json}\n")
