"""Finds objects: `localvit predict published.pth photos/ clip.mp4 0 https://address/image.jpg`.

MODEL is a published file, a checkpoint of a training, a work dir, or an exported file. A SOURCE is an image, a video, a
folder with both, a glob in quotes, the number of a webcam, or an https address.
"""

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

from localvit_det.cli import LEFT_OUT, add_trust, handle_user_errors
from localvit_det.config.options import HELP, OptionsAction
from localvit_det.config.pipelines import SCORE
from localvit_det.errors import ConfigError, DataError, OutputError, first_line, printable, shortened
from localvit_det.predict import Detector, Result
from localvit_det.predict.output import Output
from localvit_det.predict.sources import Sources

WINDOW = "localvit: q ends"


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look at all sources, find and write."""
    args = read_arguments(argv)
    MMLogger.get_current_instance().setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.show and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise OutputError("--show needs a screen, and there is none here: look at the files in --out instead.")
    without = [place for place in (args.out, args.crops) if place]
    sources = Sources(args.source, args.every, args.max_frames, without)
    total = sources.total
    detector = Detector(args.model, args.config, args.device, not args.no_fuse, args.cfg_options, args.trust_config)
    results = detector.predict(sources, args.score, args.batch)
    # Without a terminal a line now and then is a sign of life.
    terminal = sys.stderr.isatty()
    bar = tqdm(results, total=total, unit="image", mininterval=0.1 if terminal else 10, disable=args.quiet)
    counts: Counter[str] = Counter()
    images = 0
    out = None if args.no_images else args.out
    with Output(out, args.crops, args.json, detector.classes, sources.names, sources.files) as output:
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


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, work dir or exported file")
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="where images come from")
    parser.add_argument("--config", help="config, or its name (default: the one in the checkpoint)")
    parser.add_argument("--out", default="predictions", help="folder of drawn images and videos (default: %(default)s)")
    parser.add_argument("--no-images", action="store_true", help="draw nothing")
    parser.add_argument("--json", metavar="FILE", help="write all objects as a dataset in COCO's format, with scores")
    parser.add_argument("--crops", metavar="DIR", help="write what lies in each box, in a folder for each class")
    parser.add_argument("--score", type=float, default=SCORE, help="leave out lower scores (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images at a time (default: 1 on a CPU, 8 on a GPU)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of videos, take each N-th frame")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of each video or webcam, take N frames at most")
    parser.add_argument("--show", action="store_true", help="show each image in a window")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--verbose", action="store_true", help="tell how the checkpoint was loaded")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
    add_trust(parser)
    args = parser.parse_args(argv)
    for name in ("every", "batch", "max_frames"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} makes no sense: give a number from 1 on.")
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score} is no score: give a number from 0 to 1.")
    return args


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
    written = [None if args.no_images else args.out, args.crops, args.json]
    if any(written):
        lines.append("written: " + ", ".join(filter(None, written)))
    if left_out:
        lines.append(f"left out, wholly or in part: {len(left_out)} ({printable(shortened(list(left_out), 5))})")
    return "\n".join(lines) + "\n"
