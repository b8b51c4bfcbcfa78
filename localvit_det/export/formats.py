"""Write and run files in which a network works without this package: ONNX, OpenVINO, TorchScript, torch.export."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn

from ..checkpoint.exported import NOTE
from ..errors import ExportError, OutputError, first_line
from ..files import move_with_parts

if TYPE_CHECKING:
    import onnx

# Known to onnxruntime and OpenVINO of the last years; the first with LayerNormalization is 17.
OPSET = 17
# Without this setting of PyTorch 2.8 torch.export asks of all sizes what holds for the example's only, such as which of
# two strides is larger.
ANY_SIZE = hasattr(torch.fx.experimental._config, "backed_size_oblivious")
# Inputs in their order -> outputs in theirs.
Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class ExportSpec:
    """What is to be exported."""

    module: nn.Module  # in eval mode; takes and returns tensors, in the order of the names
    inputs: Mapping[str, Tensor]  # an example of each by its name; the module runs on them once
    outputs: Sequence[str]  # names
    # Axes of inputs and outputs that may have other lengths than in the example, with a name for each.
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    note: str = ""  # a text that the file carries, for `checkpoint.exported` to read


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    title: str  # as its makers call it
    suffix: str  # of the file's name
    needs: tuple[str, ...]  # packages that write and run it
    write: Callable[[ExportSpec, Path], None]
    open: Callable[[Path], Run]  # returns a function that runs the exported model on a CPU


def _write_onnx(spec: ExportSpec, path: Path) -> None:
    # PyTorch's older exporter, which follows a trace: sizes are symbols there by themselves, it takes seconds where the
    # newer one takes minutes if sizes are free.
    torch.onnx.export(
        spec.module,
        tuple(spec.inputs.values()),
        os.fspath(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=list(spec.inputs),
        output_names=list(spec.outputs),
        dynamic_axes={name: dict(axes) for name, axes in spec.dynamic.items()},
    )
    if spec.note:
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {NOTE: spec.note})
        onnx.save(model, path)


def unlisted_operators(path: str | os.PathLike) -> tuple[list[str], str]:
    """Return operators of an ONNX file that the list of TensorRT's ONNX parser lacks, and which list that is."""
    import onnx

    about, _, names = Path(__file__).with_name("tensorrt_operators.txt").read_text(encoding="utf-8").partition("\n")
    version = re.search(r"TensorRT [\d.]+", about)
    graph = onnx.load(path, load_external_data=False).graph
    found = {
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in _nodes(graph)
    }
    return sorted(found - set(names.split())), version[0] if version else "TensorRT"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, those of branches and loops as well."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, arrays)))

    return run


def _write_openvino(spec: ExportSpec, path: Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _write_onnx(spec, Path(folder, "model.onnx"))
        # Not `convert_model`, which reports its use to the makers.
        model = openvino.Core().read_model(os.path.join(folder, "model.onnx"))
        if spec.note:
            model.set_rt_info(spec.note, NOTE)
        openvino.save_model(model, os.fspath(path), compress_to_fp16=False)


def _open_openvino(path: Path) -> Run:
    import openvino

    # By itself the CPU plugin takes bf16 where the processor has it.
    compiled = openvino.Core().compile_model(os.fspath(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = compiled([x.numpy() for x in inputs])
        return tuple(torch.from_numpy(found[output].copy()) for output in compiled.outputs)

    return run


def _write_torchscript(spec: ExportSpec, path: Path) -> None:
    # Compared later, with other inputs than the traced ones.
    traced = torch.jit.trace(spec.module, tuple(spec.inputs.values()), check_trace=False)
    traced.save(os.fspath(path), _extra_files={NOTE: spec.note} if spec.note else {})


def _open_torchscript(path: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the format is deprecated, and still written here
        return _tupled(torch.jit.load(os.fspath(path), map_location="cpu"))


def _write_torch_export(spec: ExportSpec, path: Path) -> None:
    shapes = {name: dict.fromkeys(spec.dynamic.get(name, ()), torch.export.Dim.DYNAMIC) for name in spec.inputs}
    if any(shapes.values()) and not ANY_SIZE:
        raise ExportError(
            f"torch.export of any size needs PyTorch 2.8 or later, and this is {torch.__version__}: choose another "
            "format, or a fixed size."
        )
    config: Any = torch.fx.experimental._config  # gets its functions while it is imported
    with config.patch(backed_size_oblivious=True) if ANY_SIZE else nullcontext():
        exported = torch.export.export(
            spec.module, tuple(spec.inputs.values()), dynamic_shapes=tuple(shapes.values()), strict=False
        )
    torch.export.save(exported, os.fspath(path), extra_files={NOTE: spec.note} if spec.note else None)


def _open_torch_export(path: Path) -> Run:
    return _tupled(torch.export.load(os.fspath(path)).module())


def _tupled(module: Callable[..., Tensor | Sequence[Tensor]]) -> Run:
    @torch.no_grad()  # a traced module has parameters
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = module(*inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run


FORMATS = {
    "onnx": Format(f"ONNX, opset {OPSET}", ".onnx", ("onnx", "onnxruntime"), _write_onnx, _open_onnx),
    "openvino": Format("OpenVINO", ".xml", ("onnx", "openvino"), _write_openvino, _open_openvino),
    "torchscript": Format("TorchScript", ".pt", (), _write_torchscript, _open_torchscript),
    "torch_export": Format("torch.export", ".pt2", (), _write_torch_export, _open_torch_export),
}


def find_format(name: str | None, path: str | os.PathLike) -> Format:
    """Return the format of a name, or of a file's ending, after a check that its packages are there.

    Raises:
        ExportError: There is none such, or a package is missing.
    """
    by_suffix = {one.suffix: key for key, one in FORMATS.items()}
    name = name or by_suffix.get(Path(path).suffix)
    if name not in FORMATS:
        what = f"'{name}' is no format" if name else f"{os.fspath(path)} does not tell the format by its ending"
        endings = ", ".join(f"{key} ({one.suffix})" for key, one in FORMATS.items())
        raise ExportError(f"{what}: choose one of {endings}.")
    for package in FORMATS[name].needs:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f"{FORMATS[name].title} needs the package {package} ({first_line(error)}): "
                "pip install 'localvit_det[export]'."
            ) from error
    return FORMATS[name]


@contextmanager
def export_to(spec: ExportSpec, path: str | os.PathLike, kind: Format) -> Iterator[Run]:
    """Export next to `path`, and let the block run the result; it gets there only if the block ends without an error.

    Raises:
        ExportError: It cannot be written or opened, with the exporter's own words.
        OutputError: There is no room or no permission.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        draft = Path(folder, path.name)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the exporter is an old one, that traces keep constants
                kind.write(spec, draft)
            run = kind.open(draft)
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({first_line(error)}): name another place.") from error
        except ExportError:
            raise
        # Exporters raise whatever their parts do.
        except Exception as error:
            raise ExportError(
                f"{kind.title} cannot hold this network ({type(error).__name__}: {first_line(error)}): choose another "
                f"format{', or a fixed size' if spec.dynamic else ''}."
            ) from error
        yield run
        del run
        move_with_parts(draft, path)  # OpenVINO's weights are a file of their own


@contextmanager
def running(size: tuple[int, int]) -> Iterator[None]:
    """Raise what a runtime raises while it runs an exported model on an image of a size, as an ExportError."""
    try:
        yield
    # Runtimes raise whatever they like.
    except Exception as error:
        raise ExportError(
            f"The exported model does not run on an image of {size[0]}×{size[1]} pixels ({first_line(error)}): choose "  # noqa: RUF001
            "another format or a fixed size; no file was written."
        ) from error
