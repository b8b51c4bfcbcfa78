"""Checks the data of a config, as `localvit.arguments.data` says."""

import os
import sys
from collections.abc import Sequence

from mmengine.config import Config
from tqdm import tqdm

from localvit.arguments.data import read_check
from localvit_det.cli import format_error, handle_user_errors, read_arguments
from localvit_det.config import SPLITS
from localvit_det.config.utils import dataset_paths, find_datasets
from localvit_det.datasets.annotations import MAX_PIXELS, read_annotations
from localvit_det.datasets.images import pixel_range_of
from localvit_det.errors import DataError, UserError
from localvit_det.preflight.data import find_problems
from localvit_det.preflight.images import all_faults

SHOWN = 50  # images that are named


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look at everything, report what is found."""
    args = read_check(argv)
    cfg = read_arguments(args)
    found: dict[str, None] = {}  # val and test are often the same
    for split in SPLITS:
        for mistake in find_problems(cfg, split):
            found[format_error(mistake)] = None
    for sentence in found:
        sys.stderr.write(f"error: {sentence}\n")
    count = len(found) + (broken_images(cfg, max(1, args.workers)) if args.images else 0)
    if count:
        raise DataError(f"{count} problems found in the data of {args.config}.")
    print(f"The data of {args.config} are good{'' if args.images else ' (images: not looked at, see --images)'}.")


def broken_images(cfg: Config, workers: int) -> int:
    """Decode all images, name those that cannot be used, and return how many they are."""
    count = 0
    paths = [dataset_paths(dataset) for split in SPLITS for _, dataset in find_datasets(cfg, split)]
    for ann_file, image_dir in dict.fromkeys(paths):  # val and test are often the same
        if not ann_file or not image_dir or not os.path.isfile(ann_file):
            continue
        try:
            found = read_annotations(ann_file)
        except UserError:  # reported already where it is a mistake
            print(f"The images of {image_dir} are not looked at: {ann_file} is not read as COCO's format.")
            continue
        faults = all_faults(
            found, image_dir, cfg.get("max_pixels", MAX_PIXELS), workers, pixel_range_of(cfg.get("pixel_range"))
        )
        bar = tqdm(faults, image_dir, total=len(found.images), unit="image", disable=not sys.stderr.isatty())
        bad = [f"{file} {fault}" for file, fault in bar if fault]
        for line in bad[:SHOWN]:
            sys.stderr.write(f"error: {line}\n")
        if len(bad) > SHOWN:
            sys.stderr.write(f"error: and {len(bad) - SHOWN} more images of {image_dir}\n")
        print(f"{len(found.images)} images of {image_dir}: {len(bad)} cannot be used.")
        count += len(bad)
    return count
