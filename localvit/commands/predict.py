"""Finds objects, as `localvit.arguments.models` says."""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import cv2
import numpy as np
from mmengine.logging import MMLogger
from tqdm import tqdm

from localvit.arguments.models import read_predict
from localvit_det.cli import LEFT_OUT, handle_user_errors
from localvit_det.errors import DataError, OutputError, first_line, printable, shortened
from localvit_det.predict import Detector, Result
from localvit_det.predict.output import Output
from localvit_det.predict.sources import Sources

WINDOW = "localvit: q ends"


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look at all sources, find and write."""
    args = read_predict(argv)
    MMLogger.get_current_instance().setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.show and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise OutputError("--show needs a screen, and there is none here: look at the files in --out instead.")
    without = [place for place in (args.out, args.crops, args.save_txt) if place]
    sources = Sources(args.source, args.every, args.max_frames, without)
    total = sources.total
    detector = Detector(args.model, args.config, args.device, not args.no_fuse, args.cfg_options, args.trust_config)
    results = detector.predict(sources, args.score, args.batch, args.classes, args.max_det, args.tile)
    # Without a terminal a line now and then is a sign of life.
    terminal = sys.stderr.isatty()
    bar = tqdm(results, total=total, unit="image", mininterval=0.1 if terminal else 10, disable=args.quiet)
    counts: Counter[str] = Counter()
    images = 0
    out = None if args.no_images else args.out
    places = (args.save_txt, args.annotations)
    with Output(out, args.crops, args.json, detector.classes, sources.names, sources.files, *places) as output:
        for result in interruptible(bar):
            try:
                drawn = output.add(result)
            except (OutputError, OSError) as error:
                why = getattr(error, "strerror", None) or first_line(error)
                shown = result.path or result.frame.name
                sources.leave_out(result.frame.name, f"what is found in {shown} is not written ({why})")
                continue
            images += 1
            counts.update(result.names)
            if args.show and not show(result.plot() if drawn is None else drawn):
                break
    bar.close()
    for name, why in output.left_out.items():
        sources.leave_out(name, why)
    if not images and sources.left_out:
        raise DataError(f"Nothing is left: {next(iter(sources.left_out.values()))}.")
    sys.stdout.write(summary(args, images, counts, sources.left_out))
    if sources.left_out:
        raise SystemExit(LEFT_OUT)


def interruptible(results: Iterable[Result]) -> Iterator[Result]:
    """Yield results until Ctrl-C, which is how one ends a webcam: what was found until then is kept."""
    try:
        yield from results
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; what was found until here is kept.\n")


def show(image: np.ndarray) -> bool:
    """Show an image; return whether to go on."""
    cv2.imshow(WINDOW, image)
    return cv2.waitKey(1) & 0xFF not in (27, ord("q"))


def summary(args: argparse.Namespace, images: int, counts: Counter[str], left_out: Collection[str]) -> str:
    """Return what was found, and where it was written."""
    objects = ", ".join(f"{count} {name}" for name, count in counts.most_common(8))
    more = f", … of {len(counts)} classes" if len(counts) > 8 else ""
    lines = [f"{images} images, {counts.total()} objects{f' ({objects}{more})' if objects else ''}"]
    if not counts:
        lines.append(f"nothing scores {args.score} or more; --score sets the bound")
    written = [None if args.no_images else args.out, args.crops, args.json, args.save_txt]
    if any(written):
        lines.append("written: " + ", ".join(filter(None, written)))
    if left_out:
        lines.append(f"left out, wholly or in part: {len(left_out)} ({printable(shortened(list(left_out), 5))})")
    return "\n".join(lines) + "\n"
