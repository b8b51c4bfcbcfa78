"""Arguments of the commands that run detectors; the docstring of each function is what `--help` says."""

import argparse
import glob
import inspect
from collections.abc import Sequence
from pathlib import Path

from localvit_det.cli import Parser, add_device, add_options, add_trust, check_given, make_parser, use_devices
from localvit_det.config_names import add_short, existing_config
from localvit_det.errors import ConfigError
from localvit_det.files import check_writable, check_writable_folder
from localvit_det.requirements import require_package
from localvit_det.switches import LOGGERS, SWITCHES

SHORT_TRAIN = {
    "epochs": ("N", "length of the training; the learning rate's schedule follows"),
    "batch": ("N", "images of each GPU at a time, or 'auto': what fits; the learning rate follows"),
    "lr": ("RATE", "learning rate at the given batch"),
    "imgsz": ("SIZE", "pixels that images are scaled to fit into: 800, or 1333x800"),
    "augment": ("NAME", "none, flip, color, crop, lsj, mosaic or copypaste, instead of the config's augmentation"),
    "workers": ("N", "processes that load images, for each GPU"),
}


def read_train(argv: Sequence[str] | None) -> argparse.Namespace:
    """Trains a detector: `localvit train mask_rcnn_shuffle_t_coco`."""
    parser = make_parser(inspect.getdoc(read_train))
    add_short(parser, SHORT_TRAIN)
    add_device(parser)
    for name, one in SWITCHES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **one.argument)
    parser.add_argument("--dry-run", action="store_true", help="check everything, try one batch, write nothing")
    parser.add_argument(
        "--pretrained",
        metavar="BACKBONE.pth",
        help="start the backbone from these weights (official files as they are; 'official' downloads them, see "
        "`localvit weights`; FILE#model_ema takes those under that key of a file with several)",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--load-from",
        metavar="DETECTOR.pth",
        help="fine-tune this detector, of a work dir the newest; heads keep the rows of classes of the same names, "
        "other rows start new",
    )
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint, or the latest of a work dir; of its own if none is named. What the training was "
        "started with is repeated, but for what is given now",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=[name.replace("_", "-") for name in SWITCHES],
        default=[],
        metavar="SWITCH",
        help="with --resume: leave out these switches that the training was started with",
    )
    args = parser.parse_args(argv)
    use_devices(args)
    existing_config(args.config)
    check_given("--load-from", args.load_from)
    check_given("--pretrained", None if args.pretrained == "official" else args.pretrained)
    check_given("--resume", None if args.resume == "auto" else args.resume)
    for logger in args.log or ():
        require_package(LOGGERS[logger][1], f"--log {logger}")
    return args


SHORT_TEST = {
    "batch": ("N", "images of each GPU at a time"),
    "imgsz": ("SIZE", "pixels that images are scaled to fit into: 800, or 1333x800"),
    "workers": ("N", "processes that load images, for each GPU"),
}


def read_test(argv: Sequence[str] | None) -> argparse.Namespace:
    """Evaluates a checkpoint: `localvit test CONFIG CHECKPOINT`, or a file: `localvit test CONFIG --predictions FILE`.

    The config may be left out for a checkpoint that carries one: a published one, one of a training, a work dir, or an
    exported file.
    """
    parser = make_parser(inspect.getdoc(read_test))
    parser.add_argument(
        "checkpoint", nargs="?", help="checkpoint file, or a work dir, whose newest checkpoint is taken"
    )
    parser.add_argument("--predictions", metavar="FILE", help="score a file of COCO's results; no model is run")
    add_short(parser, SHORT_TEST)
    add_device(parser)
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions into this file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="draw predictions next to ground truth into this folder")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between windows of --show")
    parser.add_argument("--report", action="store_true", help="write report.html into the work dir")
    parser.add_argument("--record", action="store_true", help="keep predictions and numbers as --report does, no page")
    parser.add_argument(
        "--fast-eval", action="store_true", help="stop where faster-coco-eval, the default if there, is not"
    )
    parser.add_argument("--tta", action="store_true", help="look at each image flipped and at three sizes")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    args = parser.parse_args(argv)
    use_devices(args)
    if args.predictions:
        check_given("--predictions", args.predictions)
        of_models = ("checkpoint", "out", "show", "show_dir", "report", "fast_eval", "tta", "no_fuse", "device")
        if given := [name for name in of_models if getattr(args, name)]:
            raise ConfigError(
                f"--predictions scores a file, and {given[0].replace('_', '-')} needs a model: leave it out."
            )
    if "batch" in (args.cfg_options or {}):  # elsewhere the batch of the training
        args.cfg_options["test_dataloader.batch_size"] = args.cfg_options.pop("batch")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ConfigError(f"--out {args.out} must end in .pkl: predictions are written as a pickle.")
    if args.out:
        check_writable(args.out, "--out")
    if args.show_dir:
        check_writable_folder(args.show_dir, "--show-dir")
    existing_config(args.config)
    check_given("The checkpoint", args.checkpoint)
    if args.fast_eval:
        require_package("faster_coco_eval", "--fast-eval", "faster-coco-eval")
    return args


def read_compare(argv: Sequence[str] | None) -> argparse.Namespace:
    """Compares two detectors on the same images: `localvit compare W1 W2 [--data FOLDER]`.

    W1 and W2 are checkpoints, work dirs or exported models. AP, of classes as well, comes with the interval that holds
    95% of the differences when the images are drawn again, with repetition (a paired bootstrap). Speed is that of one
    image at a time, the detectors in turn.
    """
    parser = Parser(inspect.getdoc(read_compare))
    parser.add_argument("first", metavar="W1", help="checkpoint, work dir or exported model")
    parser.add_argument("second", metavar="W2", help="the other")
    parser.add_argument("--data", metavar="FOLDER", help="dataset (default: that of both trainings)")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="draws of images (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers into this file")
    add_device(parser)
    add_options(parser)
    args = parser.parse_args(argv)
    use_devices(args)
    for name, least in (("resamples", 20), ("images", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} {getattr(args, name)} makes no sense: give a whole number from {least} on.")
    check_given("W1", args.first)
    check_given("W2", args.second)
    check_given("--data", args.data)
    if args.json:
        check_writable(args.json, "--json")
    return args


SCORE = 0.3  # as of config.pipelines
RUN_BY = {".onnx": "onnxruntime", ".xml": "openvino"}  # what opens an exported model


def read_predict(argv: Sequence[str] | None) -> argparse.Namespace:
    """Finds objects: `localvit predict published.pth photos/ clip.mp4 0 https://address/image.jpg`.

    MODEL is a published file, a checkpoint of a training, a work dir, or an exported file. A SOURCE is an image, a
    video, a folder with both, a glob in quotes, the number of a webcam, or an https address.
    """
    parser = Parser(inspect.getdoc(read_predict))
    parser.add_argument("model", metavar="MODEL", help="checkpoint, work dir or exported file")
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="where images come from")
    parser.add_argument("--config", help="config, or its name (default: the one in the checkpoint)")
    parser.add_argument("--out", default="predictions", help="folder of drawn images and videos (default: %(default)s)")
    parser.add_argument("--no-images", action="store_true", help="draw nothing")
    parser.add_argument("--json", metavar="FILE", help="write all objects as a dataset in COCO's format, with scores")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="with --json: write COCO's results, with the image and category ids of this dataset in COCO's format",
    )
    parser.add_argument("--crops", metavar="DIR", help="write what lies in each box, in a folder for each class")
    parser.add_argument(
        "--save-txt",
        nargs="?",
        const="",
        metavar="DIR",
        help="write a label file of YOLO for each image (default: the folder labels/ in --out)",
    )
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="keep these classes only, by names or numbers")
    parser.add_argument("--max-det", type=int, metavar="N", help="keep the N best objects of each image")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="look at each image in overlapping tiles as well, for objects that are small in large images: 640",
    )
    parser.add_argument("--score", type=float, default=SCORE, help="leave out lower scores (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images at a time (default: 1 on a CPU, 8 on a GPU)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of videos, take each N-th frame")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of each video or webcam, take N frames at most")
    parser.add_argument("--show", action="store_true", help="show each image in a window")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--verbose", action="store_true", help="report how the checkpoint was loaded")
    add_options(parser)
    args = parser.parse_args(argv)
    for name in ("every", "batch", "max_frames", "max_det"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} makes no sense: give a number from 1 on.")
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score} is no score: give a number from 0 to 1.")
    if args.save_txt == "":
        args.save_txt = str(Path(args.out) / "labels")
    if args.annotations and not args.json:
        raise ConfigError("--annotations decides on the ids in the file of --json: give that, too.")
    check_given("MODEL", args.model)
    check_given("--annotations", args.annotations)
    if args.config:
        existing_config(args.config)
    for source in args.source:
        if not source.isdecimal() and not glob.has_magic(source):
            check_given("The source", source)
    if package := RUN_BY.get(Path(args.model).suffix):
        require_package(package, args.model)
    return args


FORMATS = {"onnx": "onnx", "openvino": "openvino", "torchscript": "torchscript", "torch.export": "torch_export"}
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}  # as of export.formats.FORMATS
ENDINGS = {".onnx": "onnx", ".xml": "openvino"}


def read_export(argv: Sequence[str] | None) -> argparse.Namespace:
    """Writes a detector or segmentor for other runtimes: `localvit export MODEL --format onnx --out detector.onnx`.

    MODEL is a published file, a checkpoint of a training, or a work dir. The file holds all from the bytes of an image
    to boxes, classes and masks, takes images of any size, and is kept only if it finds what the detector finds.
    `localvit predict FILE` runs it.
    """
    parser = Parser(inspect.getdoc(read_export))
    parser.add_argument("model", metavar="MODEL", help="checkpoint or work dir")
    parser.add_argument("--out", required=True, metavar="FILE", help="ends in .onnx, .xml (OpenVINO), .pt or .pt2")
    parser.add_argument("--format", choices=FORMATS, help="default: what the ending of FILE says")
    parser.add_argument("--size", metavar="HxW", help="take only images of this size, in pixels, padded if smaller")
    parser.add_argument("--dynamic", action="store_true", help="take images of any size (default without --size)")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone: normalized image in, maps out")
    parser.add_argument("--images", nargs="+", metavar="SOURCE", help="compare on these instead of synthetic images")
    parser.add_argument("--half", action="store_true", help="ONNX with layers in fp16")
    parser.add_argument("--int8", action="store_true", help="OpenVINO in INT8, see --calibration")
    parser.add_argument("--calibration", nargs="+", metavar="SOURCE", help="images like those that it will see")
    parser.add_argument("--config", help="config, or its name (default: the one in the checkpoint)")
    add_options(parser)
    args = parser.parse_args(argv)
    args.format = FORMATS.get(args.format)
    if args.images and (args.int8 or args.backbone):
        raise ConfigError(
            "--images are for the comparison of whole detectors in fp32: leave it out "
            f"{'and give --calibration' if args.int8 else 'with --backbone'}."
        )
    kind = args.format or ENDINGS.get(Path(args.out).suffix, "")
    if args.half and (args.backbone or args.int8 or kind != "onnx"):
        raise ConfigError(
            "--half writes whole detectors for ONNX: let --out end in .onnx, without --int8 or --backbone."
        )
    if args.size and args.dynamic and not args.backbone:
        raise ConfigError("--dynamic takes images of any size and --size those of one: give one of the two.")
    args.dynamic = args.dynamic or not args.size
    args.size = size_of(args.size) if args.size else None
    if args.int8:
        if args.calibration is None:
            raise ConfigError("--int8 needs images like those that the detector will see: name them by --calibration.")
        if args.backbone or args.format not in (None, "openvino") or Path(args.out).suffix != ".xml":
            raise ConfigError("--int8 writes whole detectors for OpenVINO: let --out end in .xml.")
    elif args.calibration is not None:
        raise ConfigError("--calibration has no effect without --int8: leave it out, or add --int8.")
    check_given("MODEL", args.model)
    for package in (*(["nncf"] if args.int8 else []), *NEEDS.get(kind, ())):
        require_package(package, f"An export to {kind}")
    return args


def size_of(text: str) -> tuple[int, int]:
    """Return height and width from 'HxW'."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--size {text} is no size: give height and width, as in --size 448x672.")
    return int(parts[0]), int(parts[1])


def read_publish(argv: Sequence[str] | None) -> argparse.Namespace:
    """Publishes a trained detector: `localvit publish work_dirs/mine/epoch_12.pth`.

    Writes NAME-xxxxxxxx.pth with weights (the averaged ones where the training had EMAHook), config, classes, versions
    and metrics. `localvit test NAME-xxxxxxxx.pth` and `DetInferencer(weights='NAME-xxxxxxxx.pth')` need nothing
    else.
    """
    parser = Parser(inspect.getdoc(read_publish))
    parser.add_argument("checkpoint", help="checkpoint of a training, or its work dir")
    parser.add_argument("--out-dir", help="folder of the published file (default: the checkpoint's)")
    parser.add_argument("--name", help="start of its name (default: the config's name)")
    add_trust(parser)
    args = parser.parse_args(argv)
    check_given("The checkpoint", args.checkpoint)
    return args
