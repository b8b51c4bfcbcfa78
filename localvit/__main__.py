"""`localvit COMMAND`, or `python -m localvit COMMAND`: everything from a folder of images to a detector.

A new command is a function in `localvit.commands`, its arguments as a function in `localvit.arguments`, which imports
neither PyTorch nor MMDetection, and a line in `COMMANDS`.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import arguments, commands, process

COMMANDS = {
    "train": "train or fine-tune a detector",
    "test": "evaluate a checkpoint on a dataset",
    "compare": "two detectors: AP with intervals, classes, speed, size",
    "predict": "find objects in images, videos, a webcam",
    "export": "write a detector for ONNX Runtime, OpenVINO, TorchScript, torch.export",
    "analyze": "look at a run, a dataset or a network: one HTML page",
    "check": "name every mistake in a dataset",
    "publish": "write weights, config and classes of a training into one file",
    "convert": "an official checkpoint, or a dataset of another tool, into this package's format",
    "configs": "list the configs that come with the package",
    "weights": "list the official weights of all networks, and how to get them",
    "doctor": "look at the installation and the machine",
}
WITHOUT_LIBRARY = ("doctor",)  # works where the library cannot be imported
LISTINGS = ("configs", "weights")  # read what was written down, and need neither PyTorch nor MMDetection
GONE = {
    "hook": "`localvit hook` is gone: let a config say custom_imports = dict(imports=['localvit_det']), or put "
    "`import localvit_det` before `import mmdet` in a script",
}
HELP = "usage: localvit COMMAND [arguments]\n\n{}\n\n`localvit COMMAND --help` has the arguments of a command.\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a mistake ends in one sentence and exit code 1."""
    process.survive_closed_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        lines = (f"  {command:9}{purpose}" for command, purpose in COMMANDS.items())
        sys.stdout.write(HELP.format("\n".join(lines)))
        return
    if name in ("-V", "--version"):
        sys.stdout.write(f"localvit_det {version('localvit_det')}\n")
        return
    if name in GONE:
        sys.stderr.write(f"error: {GONE[name]}.\n")
        raise SystemExit(1)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        sys.stderr.write(f"error: There is no command '{name}'{hint}: `localvit --help` lists them.\n")
        raise SystemExit(1)
    run(name, argv[1:])


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command: what it is asked is read and checked at once, then comes what takes seconds to import."""
    process.survive_closed_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.argv[0] = f"localvit {name}"  # what argparse calls the program
    with process.library_not_run():
        devices = prepare(name, argv)
        if name in LISTINGS:
            commands.find(name)(argv)
            return
    if "," in devices and "LOCAL_RANK" not in os.environ:
        process.launch(devices.count(",") + 1, name, argv)
    process.set_up()
    if name in ("train", "test"):
        process.print_startup(name)
    try:
        if name not in WITHOUT_LIBRARY:
            importlib.import_module("localvit_det").register()  # it says what is missing
        command = commands.find(name)
    except ImportError as error:
        # The class cannot be imported here: what it reports is that the package cannot be.
        if type(error).__name__ != "RequirementError":
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    command(argv)


def prepare(name: str, argv: Sequence[str]) -> str:
    """Read the arguments of a command, which ends with `--help` or a mistake, and look for missing packages.

    Returns:
        The devices that were given.
    """
    if name in WITHOUT_LIBRARY:
        arguments.read(name, argv)
        return ""
    cli, requirements = (importlib.import_module(f"localvit_det.{part}") for part in ("cli", "requirements"))
    args = cli.handle_user_errors(lambda argv: arguments.read(name, argv))(argv)
    if name not in LISTINGS:
        cli.handle_user_errors(lambda _: requirements.check_installed())()
    return getattr(args, "device", None) or ""


if __name__ == "__main__":
    main()
