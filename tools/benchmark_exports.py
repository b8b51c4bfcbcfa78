"""Times backbones as they are, fused, and exported: `python tools/benchmark_exports.py mask_rcnn_shuffle_t_coco`.

All forms of a backbone run in turn on the same image of noise, on one thread. Integers of 8 bits are calibrated on it,
too: their time does not depend on that, their accuracy does. docs/export.md has the results.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from mmdet.registry import MODELS

from benchmarking.environment import describe, headline
from benchmarking.markdown import markdown_table
from benchmarking.timing import quartiles, time_interleaved
from localvit.commands.export import size_of
from localvit_det.cli import tells_mistakes
from localvit_det.config import load_config
from localvit_det.export import export_backbone
from localvit_det.export.quantize import STEPS_DOWN, with_integers
from localvit_det.files import check_writable_folder, write_text
from localvit_det.fused import fused_copy

FORMS = ("eager", "fused", "onnxruntime", "OpenVINO", "OpenVINO, INT8")


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Exports what is not there yet, times, prints a table, writes `exports.json` and `exports.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="configs, or their names")
    parser.add_argument("--size", default="448x672", metavar="HxW", help="of the image (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/exports"), help="folder of programs and results")
    parser.add_argument(
        "--processor-time", action="store_true", help="count time on processors only, where others share the machine"
    )
    parser.add_argument("--only-export", action="store_true", help="do not time yet: a later call finds the programs")
    args = parser.parse_args(argv)
    check_writable_folder(args.out, "--out")
    torch.set_num_threads(args.threads)
    size = size_of(args.size)
    environment = describe("cpu")
    for package in ("onnxruntime", "openvino", "nncf"):
        environment["versions"][package] = version(package)
    clock = time.process_time if args.processor_time else time.perf_counter
    rows = {}
    for name in args.configs:
        forms = forms_of(name, size, args.threads, args.out)
        if args.only_export:
            continue
        samples = time_interleaved(list(forms.values()), args.rounds, clock=clock)
        rows[name] = [quartiles(one).median * 1000 for one in samples]
        print(name, *(f"{form} {value:.0f}" for form, value in zip(forms, rows[name], strict=True)), file=sys.stderr)
    if args.only_export:
        return
    table = markdown_table(
        ("backbone of", *FORMS), [(name, *(f"{value:.0f}" for value in rows[name])) for name in rows]
    )
    what = "Processor time, medians" if args.processor_time else "Medians"
    head = f"{what} of {args.rounds} rounds, ms, one image of {args.size}. {headline(environment)}"
    write_text(args.out / "exports.json", json.dumps({"environment": environment, "milliseconds": rows}, indent=1))
    write_text(args.out / "exports.md", f"{head}\n\n{table}\n")
    print(f"{head}\n\n{table}")


def forms_of(name: str, size: tuple[int, int], threads: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Functions that run one image through each form of a config's backbone."""
    import onnxruntime
    import openvino

    torch.manual_seed(0)
    net = MODELS.build(load_config(name, data=False).model.backbone).eval()
    stem = folder / f"{Path(name).stem}_{size[0]}x{size[1]}"
    files = {
        kind: Path(f"{stem}{suffix}") for kind, suffix in (("onnx", ".onnx"), ("fp32", ".xml"), ("int8", "_int8.xml"))
    }
    for kind in ("onnx", "fp32"):
        if not files[kind].exists():
            export_backbone(net, files[kind], size=size, dynamic=False)
    image = torch.randn(1, 3, *size)
    core = openvino.Core()
    if not files["int8"].exists():
        program = with_integers(core.read_model(files["fp32"]), [image.numpy()], outside=STEPS_DOWN)
        openvino.save_model(program, files["int8"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(files["onnx"], options, providers=["CPUExecutionProvider"])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    programs = {kind: core.compile_model(files[kind], "CPU", settings) for kind in ("fp32", "int8")}
    fused = fused_copy(net)

    def in_torch(module: torch.nn.Module) -> Callable[[], object]:
        return torch.inference_mode()(lambda: module(image))

    return dict(
        zip(
            FORMS,
            (
                in_torch(net),
                in_torch(fused),
                lambda: session.run(None, {"image": image.numpy()}),
                *(lambda program=program: program([image.numpy()]) for program in programs.values()),
            ),
            strict=True,
        )
    )


if __name__ == "__main__":
    main()
