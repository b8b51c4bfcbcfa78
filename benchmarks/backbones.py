"""Compare backbones: `python -m benchmarks.backbones swin_t shuffle_t`; docs/benchmarking.md explains the tables.

A row is NAME, or NAME=FILE.py:FUNCTION for a network of your own (FUNCTION returns it; it maps images (B, 3, H, W) to
any tensors), with changes: +channels-last for the memory layout, +ARGUMENT=VALUE for an argument of the network.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from localvit_det.analysis.compare import count_macs
from localvit_det.backbones import LocalViT
from localvit_det.backbones.family import SWIN_SIZES
from localvit_det.checkpoint.networks import families
from localvit_det.cli import handle_user_errors
from localvit_det.errors import ConfigError, UserError, did_you_mean

from .measure import held_bytes, in_fresh_process, process_peak, time_interleaved
from .results import Record
from .run import begin, finish_table, make_parser, size_of
from .tables import GEMM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Largest difference from the network's own eager fp32 output, relative to that output's norm. INT8 has no limit:
# `localvit test` measures its accuracy on data.
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "int8": float("inf")}
EXPORTED = ("onnxruntime", "openvino", "int8")
TIMM = {"timm_swin": "swin_{}_patch4_window7_224", "timm_pcpvt": "twins_pcpvt_{}", "timm_svt": "twins_svt_{}"}
# The product of the roofline: stage 3 of a tiny network at 896×1344, its 56·84 tokens through the first layer of the
# MLP. On a GPU as many as a batch of 16 has, since so small a product would measure the launch of a kernel.
GEMM_SHAPE = {"cpu": (56 * 84, 384, 1536), "cuda": (16 * 56 * 84, 384, 1536)}


@dataclass(frozen=True)
class Row:
    """One network of the comparison: its name, `FILE.py:FUNCTION` if it is the user's, and what is changed."""

    name: str
    source: str = ""
    changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name with what was changed."""
        return self.name + "".join(f" ({change.removesuffix('=True')})" for change in self.changes)

    def build(self) -> nn.Module:
        """Return the network, with the same weights at each call and statistics in its BatchNorms."""
        torch.manual_seed(0)
        path, _, function = self.source.rpartition(":")
        make = runpy.run_path(path)[function] if path else named_networks()[self.name]
        arguments = dict(change.split("=", 1) for change in self.changes if "=" in change)
        net = make(**{name: ast.literal_eval(value) for name, value in arguments.items()})
        for norm in (module for module in net.modules() if isinstance(module, _BatchNorm)):
            # With fresh statistics a wrong folding would change nothing.
            for tensor, low, high in ((norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 1.5)):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.2, 0.2)
        return net.to(memory_format=torch.channels_last) if "channels-last" in self.changes else net


def parse_row(text: str) -> Row:
    """Read a row of the command line.

    Raises:
        ConfigError: There is no such network or change.
    """
    head, *changes = text.split("+")
    name, _, source = head.partition("=")
    path, _, function = source.rpartition(":")
    if source and not (Path(path).is_file() and function):
        raise ConfigError(f"{text} must be NAME=FILE.py:FUNCTION, with a file that exists.")
    if not source and name not in (known := named_networks()):
        raise ConfigError(f"There is no row {name}{did_you_mean(name, known)}: choose from {', '.join(known)}.")
    for change in changes:
        if change != "channels-last" and "=" not in change:
            raise ConfigError(f"{text}: a change is +channels-last or +ARGUMENT=VALUE, not +{change}.")
    return Row(name, source, tuple(changes))


def named_networks() -> dict[str, Callable[..., nn.Module]]:
    """Return functions that build the networks which have names: ours, and Swin and Twins of others."""
    found: dict[str, Callable[..., nn.Module]] = {}
    for family in families():
        if short := vars(family).get("short_name"):
            found |= {f"{short}_{arch[0]}": functools.partial(family, arch) for arch in family.arch_settings}
    for arch, sizes in SWIN_SIZES.items():
        found[f"swin_{arch[0]}"] = functools.partial(MODELS.get("mmdet.SwinTransformer"), **sizes)
        found[f"torchvision_swin_{arch[0]}"] = functools.partial(_torchvision, f"swin_{arch[0]}")
    found["resnet_50"] = functools.partial(MODELS.get("mmdet.ResNet"), depth=50)
    for name, pattern in TIMM.items() if importlib.util.find_spec("timm") else ():
        for arch in ("tiny", "small", "base") if "swin" in name else ("small", "base", "large"):
            found[f"{name}_{arch[0]}"] = functools.partial(_timm, pattern.format(arch))
    return found


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    return getattr(models, name)().features


def _timm(name: str) -> nn.Module:
    import timm

    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    return timm.create_model(name, features_only=True, **options)


@dataclass(frozen=True)
class Case:
    """A row and how it is run."""

    row: Row
    mode: str  # 'inference' or 'training'
    size: tuple[int, int]
    batch: int = 1
    device: str = "cpu"
    dtype: str = "fp32"
    execution: str = "eager"
    fuse: bool = True


class Step:
    """A network with a batch of images; calling it does one step.

    Inference is a forward pass in eval mode without gradients; training is forward and backward in train mode, with
    given gradients of the feature maps in a loss's place, and ends with dropping the parameters' gradients.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.training = case, case.mode == "training"
        self.net = case.row.build().to(case.device)
        self.net.train(self.training)
        fuse = getattr(self.net, "fuse", None)
        if case.fuse and not self.training and fuse is not None:
            self.net = fuse()
        self.image = torch.randn(case.batch, 3, *case.size, generator=torch.Generator().manual_seed(0)).to(case.device)
        if "channels-last" in case.row.changes:
            self.image = self.image.contiguous(memory_format=torch.channels_last)
        self._run: Callable = self.net
        if case.execution == "compile":  # without dynamic shapes: every size gets its own best code
            self._run = torch.compile(self.net, dynamic=False)
        elif case.execution in EXPORTED:
            self._run = _exported(self.net, self.image, case.execution)
        self._gradients: list[Tensor] = []

    def __call__(self) -> None:
        """Do one step."""
        outputs = self.forward()
        if self.training:
            self._gradients = self._gradients or [torch.randn_like(output) for output in outputs]
            torch.autograd.backward(outputs, self._gradients)
            self.net.zero_grad(set_to_none=True)

    def forward(self) -> list[Tensor]:
        """Return all feature maps, in whatever container the network has them."""
        autocast = torch.autocast(self.case.device, torch.bfloat16, enabled=self.case.dtype == "bf16")
        with autocast, torch.set_grad_enabled(self.training):
            return [leaf for leaf in tree_leaves(self._run(self.image)) if isinstance(leaf, Tensor)]

    def checkable(self) -> list[Tensor]:
        """Return the feature maps without what makes two runs of a training step differ.

        Drop layers are known by their names, since every library has its own class.
        """
        names = ("Drop", "Stochastic", "BatchNorm")
        still = [m for m in self.net.modules() if m.training and any(name in type(m).__name__ for name in names)]
        for module in still:
            module.training = False
        outputs = [output.detach().float() for output in self.forward()]
        for module in still:
            module.training = True
        return outputs


def _exported(net: nn.Module, image: Tensor, execution: str) -> Callable[[Tensor], list[Tensor]]:
    """Return a function that runs the exported network on as many threads as PyTorch has."""
    import onnxruntime
    import openvino

    from localvit_det.export import export_backbone
    from localvit_det.export.quantize import DOWNSAMPLING, to_int8

    if not isinstance(net, LocalViT):
        raise ConfigError(f"Only backbones of this package are exported, and this is a {type(net).__name__}.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx" if execution == "onnxruntime" else "net.xml")
        export_backbone(net, file, size=(image.shape[2], image.shape[3]), batch=len(image), dynamic=False)
        if execution == "onnxruntime":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            return lambda image: [torch.from_numpy(out) for out in session.run(None, {"image": image.numpy()})]
        model = openvino.Core().read_model(file)
        if execution == "int8":  # calibrated on noise: the time does not depend on that
            model = to_int8(model, [image.numpy()], outside=DOWNSAMPLING)
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        return lambda image: [torch.from_numpy(out) for out in compiled([image.numpy()]).values()]


def relative_error(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference of a feature map, relative to its norm; infinite where shapes differ."""
    if [o.shape for o in outputs] != [e.shape for e in expected]:
        return float("inf")
    errors = [(o - e).norm() / e.norm() for o, e in zip(outputs, expected, strict=True)]
    return max(float(error) if error.isfinite() else float("inf") for error in errors)


def measure_table(cases: Sequence[Case], rounds: int, warmup: int = 1, memory: bool = True) -> list[Record]:
    """Check all rows against their own plain eager fp32, time those that agree in the same rounds, weigh each alone."""
    mode, device = cases[0].mode, cases[0].device
    setting = f"{'x'.join(map(str, cases[0].size))}, batch {cases[0].batch}, {device}"
    records = [Record(mode, setting, case.row.label, case.execution, case.dtype) for case in cases]
    steps: list[Callable | None] = [_checked_step(*pair) for pair in zip(cases, records, strict=True)]
    tokens, channels, hidden = GEMM_SHAPE[device]
    for dtype in dict.fromkeys(case.dtype for case in cases):
        left = torch.rand(tokens, channels, device=device, dtype=DTYPES[dtype])
        right = torch.rand(channels, hidden, device=device, dtype=DTYPES[dtype])
        # Into memory that is already there, as a network's allocator would find it.
        steps.append(functools.partial(torch.mm, left, right, out=left @ right))
        records.append(Record(mode, setting, GEMM, "eager", dtype, {"MACs": [float(tokens * channels * hidden)]}))
    ready = [(step, record) for step, record in zip(steps, records, strict=True) if step is not None]
    samples = time_interleaved([step for step, _ in ready], rounds, warmup)
    for (_, record), times in zip(ready, samples, strict=True):
        record.quantities["seconds"] = times
    del steps, ready  # before other processes are weighed
    for case, record in zip(cases, records, strict=False):
        if memory and "seconds" in record.quantities:
            peak = in_fresh_process(peak_of_step, case, torch.get_num_threads())
            record.quantities |= {"memory start": [peak[0]], "memory peak": [peak[1]]} if peak else {}
            record.note = "" if peak else "memory: the process ended without a result (out of memory?)"
    return records


def peak_of_step(case: Case, threads: int) -> tuple[int, int] | None:
    """Return the memory of one step; to be called in a fresh process."""
    torch.set_num_threads(threads)
    step = Step(case)
    if case.execution == "compile":
        step()  # compiling does not count
    return process_peak(step, case.device)


def _checked_step(case: Case, record: Record) -> Step | None:
    """Make a step and compare its outputs with plain eager fp32; None where it is not to be timed."""
    # Another size or layer is another network, while a layout in memory has to change nothing.
    row = replace(case.row, changes=tuple(change for change in case.row.changes if change != "channels-last"))
    try:
        expected: list[Tensor] = []
        reference = Step(replace(case, row=row, mode="inference", dtype="fp32", execution="eager", fuse=False))
        record.quantities["MACs"] = [count_macs(lambda: expected.extend(reference.forward()))]
        record.quantities["parameters"] = [sum(p.numel() for p in reference.net.parameters())]
        step = Step(case)
        error = relative_error(step.checkable(), expected)
        record.quantities["error"] = [error]
        if not error <= TOLERANCES[case.execution if case.execution == "int8" else case.dtype]:
            record.note = f"not timed: outputs differ by {error:.1e} from its own eager fp32"
            return None
        if step.training:
            record.quantities["saved bytes"] = [held_bytes(step.forward, case.device)]
        return step
    except UserError:
        raise
    # A network of others may fail in any way, at some size or mode; the other rows are still worth measuring.
    except Exception as error:
        record.note = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return None


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, write the samples."""
    parser = make_parser(__doc__, "backbones")
    parser.add_argument("rows", nargs="+", metavar="ROW")
    parser.add_argument("--modes", nargs="+", choices=["inference", "training"], default=["inference", "training"])
    parser.add_argument("--sizes", nargs="+", type=size_of, default=[(896, 1344), (800, 1333), (512, 512)])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32"], help="bf16: autocast")
    parser.add_argument("--execution", nargs="+", choices=("eager", "compile", *EXPORTED), default=["eager"])
    parser.add_argument("--no-fuse", action="store_true", help="do not fold BatchNorm for inference")
    parser.add_argument("--no-memory", action="store_true", help="skip the peak of memory, a process for each row")
    args = parser.parse_args(argv)
    rows = [parse_row(text) for text in args.rows]
    if "training" in args.modes and set(args.execution) & set(EXPORTED):
        raise ConfigError("Exported models do not train: give --modes inference.")
    benchmark = begin(args)
    # Families share code, and the compiler counts its versions by code, not by network.
    torch._dynamo.config.cache_size_limit = 64 * len(rows)
    for mode, size in [(mode, size) for mode in args.modes for size in args.sizes]:
        print(f"{mode} {size[0]}x{size[1]}: {len(rows)} networks, {args.rounds} rounds", file=sys.stderr)
        cases = [
            Case(row, mode, size, args.batch, args.device, dtype, execution, not args.no_fuse)
            for row in rows
            for dtype in args.dtypes
            for execution in args.execution
        ]
        finish_table(args, benchmark, measure_table(cases, args.rounds, args.warmup, not args.no_memory))
    wrong = [f"{r.row} {r.dtype} {r.run}" for r in benchmark.records if r.note.startswith("not timed")]
    if wrong:
        raise UserError(f"Not timed, because outputs differ from eager fp32 by more than allowed: {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
