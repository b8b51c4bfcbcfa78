"""Arguments of the commands that look at data and files; the docstring of each function is what `--help` says."""

import argparse
import inspect
import os
import sys
from collections.abc import Sequence

from localvit_det.cli import Parser, add_options, check_given, make_config_parser
from localvit_det.config_names import existing_config
from localvit_det.errors import ConfigError, did_you_mean

VERBS = ("run", "results", "data", "runs", "field", "windows")
MEASURES = ("mistakes", "missed", "false", "confused", "f1")  # what makes an image the worst, as of analysis.coco


def read_analyze(argv: Sequence[str] | None) -> argparse.Namespace:
    """Looks at a run, predictions, a dataset or a network, and writes one HTML page that needs no other file.

      localvit analyze RUN_DIR                   report of a training, of `localvit test … --report`, or of both
      localvit analyze results PREDICTIONS.json  the same for any predictions in the format of COCO's results
      localvit analyze data CONFIG               statistics and images of a dataset, split by split
      localvit analyze runs RUN_DIR RUN_DIR …    learning curves of several trainings
      localvit analyze field MODEL               effective receptive fields of a backbone
      localvit analyze windows MODEL IMAGE       what single tokens of an image see, block by block

    `localvit analyze results --help` and so on have the arguments. MODEL is a config, or a checkpoint or work dir.
    """
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
    if args.verb == "results":
        check_given("The annotation file", args.annotations)
        check_given("The file of predictions", args.predictions)
    for given in (getattr(args, "config", None), getattr(args, "model", None)):
        if given and "#" not in given:
            existing_config(given)
    return args


def make_parser() -> argparse.ArgumentParser:
    """Return one parser for each verb, with what they share."""
    parser = Parser(inspect.getdoc(read_analyze))
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
    data.add_argument("--augmented", action="store_true", help="also show images as a training gets them")
    data.add_argument("--seed", type=int, default=0, help="of the choice of images (default: %(default)s)")
    data.add_argument("--draw", action="store_true", help="let a dataset of synthetic shapes be drawn at its data_root")

    runs = verbs.add_parser("runs", help="learning curves of several trainings")
    runs.add_argument("folders", nargs="+", metavar="RUN_DIR", help="work dirs of trainings")

    field = verbs.add_parser("field", help="effective receptive fields of a backbone")
    field.add_argument("model", metavar="MODEL", help="config (random weights), checkpoint or work dir")
    field.add_argument("image", nargs="*", metavar="IMAGE", help="images or folders to average over, else noise")
    windows = verbs.add_parser("windows", help="what tokens of an image see")
    windows.add_argument("model", metavar="MODEL", help="config (random weights), checkpoint or work dir")
    windows.add_argument("image", metavar="IMAGE", help="image file")
    windows.add_argument("--at", nargs="+", type=place, metavar="Y,X", help="tokens: shares of height and width")
    for one in (field, windows):
        one.add_argument("--size", type=int, default=448, help="pixels on the longer side (default: %(default)s)")
    for one in (data, field, windows):
        add_options(one)
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


def read_check(argv: Sequence[str] | None) -> argparse.Namespace:
    """Checks the data of a config: `localvit check CONFIG --images`.

    Names every mistake in annotations and files, where training stops at the first one; with --images all images are
    decoded, too. The exit code is 1 where there are problems.
    """
    parser = make_config_parser(inspect.getdoc(read_check))
    parser.add_argument("--images", action="store_true", help="decode every image")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of --images")
    args = parser.parse_args(argv)
    existing_config(args.config)
    return args


def read_convert(argv: Sequence[str] | None) -> argparse.Namespace:
    """Writes an official checkpoint in this package's layout, or a dataset of another format in COCO's.

    localvit convert dwnet_tiny_224.pth dwnet_t.safetensors
    localvit convert cascade_mask_rcnn_dwnet_tiny.pth cascade_dwnet_t.pth     --config cascade_mask_rcnn_dwnet_t_3x_coco
    localvit convert /data/yolo /data/coco        (or /data/yolo/data.yaml)

    Every command loads official files as they are; a converted one is for those who want a file of tensors alone. A
    folder is a dataset of YOLO, Pascal VOC, labelme, VIA or CVAT, which trainings and tests also take as it is
    (data_root=FOLDER); images are linked where the disk allows it, and nothing in it changes.
    Images that cannot be used are named and left out: then the exit code is 3.
    """
    parser = Parser(inspect.getdoc(read_convert))
    parser.add_argument("source", help="checkpoint in any known layout, or folder of a dataset (its data.yaml)")
    parser.add_argument("target", help="file to write, .pth or .safetensors; for a dataset a new folder")
    parser.add_argument("--config", help="config of the model; needed for detectors and for sizes of your own")
    args = parser.parse_args(argv)
    check_given("The source", args.source)
    if args.config:
        existing_config(args.config)
    return args
