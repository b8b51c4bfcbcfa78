"""The Triton kernels of the convolution with a kernel at each position, on a machine without a GPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from localvit_det.errors import RequirementError
from localvit_det.ops import inhomogeneous, inhomogeneous_conv

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch on Linux")

KERNELS = Path(inhomogeneous.__file__).with_name("inhomogeneous_triton.py")
# Batch, channels, groups, kernel size, height and width: more positions and groups than a tile, feature maps smaller
# than a kernel, each group width that is published, odd ones.
CASES = {
    "tiles": (2, 30, 10, 3, 5, 4),
    "small_maps": (2, 6, 2, 7, 2, 1),
    "one_position": (1, 8, 2, 5, 1, 1),
    "pointwise": (1, 8, 1, 1, 2, 3),
    "single_channels": (1, 5, 5, 3, 3, 2),
    "wide_groups": (1, 80, 2, 3, 2, 3),
    "no_images": (0, 6, 2, 3, 4, 4),
    "no_rows": (1, 6, 2, 3, 0, 4),
    **{f"width_{width}": (1, 2 * width, 2, 3, 2, 3) for width in (3, 6, 12, 24, 4, 16, 32)},
}
TYPES = {"float32": 1e-6, "bfloat16": 2e-3, "float16": 2e-3}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What went in and came out, by case and type, computed in the interpreter."""
    folder = tmp_path_factory.mktemp("interpreted")
    generator, inputs = torch.Generator().manual_seed(0), {}
    for case, (batch, channels, groups, size, *shape) in CASES.items():
        for name in TYPES if case in ("tiles", "small_maps", "width_3") else ["float32"]:
            wanted = [(batch, channels, *shape)] * 2 + [(batch, groups * size**2, *shape)]
            tensors = [torch.randn(s, generator=generator).to(getattr(torch, name)) for s in wanted]
            inputs[case, name] = (*tensors, size)
    torch.save(inputs, folder / "cases")
    command = [sys.executable, str(Path(__file__).with_name("interpret_triton.py")), str(KERNELS)]
    subprocess.run([*command, str(folder / "cases"), str(folder / "results")], check=True)
    return {key: (inputs[key], out) for key, out in torch.load(folder / "results").items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_triton_kernels_equal_the_loops_in_float64(interpreted, case):
    for (name, dtype), ((grad, x, kernels, size), ours) in interpreted.items():
        if name == case:
            x, kernels = x.double().requires_grad_(), kernels.double().requires_grad_()
            out = inhomogeneous_conv(x, kernels, size)
            exact = (out.detach(), *torch.autograd.grad(out, (x, kernels), grad.double()))
            for got, expected in zip(ours, exact, strict=True):
                assert got.dtype == getattr(torch, dtype)
                assert got.shape == expected.shape
                assert got.is_contiguous(memory_format=torch.channels_last)
                assert distance(got, expected) <= TYPES[dtype]


def distance(got, exact):
    """The relative distance; in bf16 to the nearest number or to that towards zero, as the interpreter rounds."""
    rounded = [exact]
    if got.dtype == torch.bfloat16:
        rounded = [exact.bfloat16(), (exact.float().view(torch.int32) & -65536).view(torch.float32)]
    return min(float((got.double() - r.double()).norm() / (r.double().norm() + 1e-300)) for r in rounded)


@pytest.mark.slow
def test_interpreted_bf16_is_one_rounding_away(interpreted):
    (_, x, kernels, size), (out, *_) = interpreted["tiles", "bfloat16"]
    exact = inhomogeneous_conv(x.double(), kernels.double(), size)
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-7).all()


class Operators(TorchDispatchMode):
    """The names of operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_away_from_a_cpu_each_pass_is_one_operator_in_channels_last_memory():
    # On "meta", as PyTorch runs no backward pass on fake CUDA tensors where no GPU is.
    x = torch.empty(2, 6, 5, 4, device="meta", requires_grad=True)
    kernels = torch.empty(2, 18, 5, 4, device="meta", requires_grad=True)
    with Operators() as forward:
        out = inhomogeneous_conv(x, kernels, 3)
    with Operators() as backward:
        grads = torch.autograd.grad(out, (x, kernels), torch.empty_like(out))
    assert forward.names == ["localvit_det::inhomogeneous_conv"]
    assert "localvit_det::inhomogeneous_conv_backward" in backward.names
    assert {name.split("::")[1] for name in backward.names} <= {"inhomogeneous_conv_backward", "detach", "empty_like"}
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (out, *grads))
    assert [t.shape for t in grads] == [x.shape, kernels.shape]


def test_which_tensors_go_to_triton(monkeypatch):
    with FakeTensorMode():
        single, double = (torch.empty(1, 6, 5, 4, device="cuda", dtype=d) for d in (torch.float32, torch.float64))
        assert inhomogeneous_conv(single, torch.empty(1, 18, 5, 4, device="cuda"), 3).device.type == "cuda"
    assert inhomogeneous._runs_in_triton(single)
    assert not inhomogeneous._runs_in_triton(double)
    assert not inhomogeneous._runs_in_triton(torch.empty(1, 6, 5, 4))
    monkeypatch.setenv("LOCALVIT_NO_TRITON", "1")
    assert not inhomogeneous._runs_in_triton(single)


def test_kernels_that_do_not_run_end_in_a_sentence_that_names_the_switch(monkeypatch):
    monkeypatch.setattr(inhomogeneous, "_runs_in_triton", lambda x: True)
    with pytest.raises(RequirementError, match=r"do not run here \(.+\): set LOCALVIT_NO_TRITON=1"):
        inhomogeneous_conv(torch.randn(1, 2, 2, 2), torch.randn(1, 9, 2, 2), 3)  # Triton takes no memory of a CPU


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), [(80, "fp32"), (90, "bf16")])
def test_kernels_compile_without_spilling_or_exchanging_between_threads(arch, dtype):
    import triton
    from triton.backends.compiler import GPUTarget

    from localvit_det.ops import inhomogeneous_triton as kernels

    compiler = importlib.import_module("triton.compiler")
    for width in (3, 4, 24, 32):
        for kernel, extra, exchanges in (
            (kernels._convolve, {"TRANSPOSED": False}, 0),
            (kernels._convolve, {"TRANSPOSED": True}, 0),
            (kernels._grad_kernels, {"SPAN": 8}, 2),  # once a row of taps, outside the inner loop
        ):
            elements = kernels._ELEMENTS // 2 if "SPAN" in extra else kernels._ELEMENTS
            constants = {"SIZE": 7, "WIDTH": width, **extra, **kernels.blocks_of(width, 32, elements)}
            kinds = ["*" + dtype] * 3 + ["i32"] * 4 + ["constexpr"] * len(constants)
            source = compiler.ASTSource(
                fn=kernel,
                signature=dict(zip(kernel.arg_names, kinds, strict=True)),
                constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
            )
            made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": kernels._WARPS})
            assert "ld.local" not in made.asm["ptx"]
            assert made.asm["ttgir"].count("ttg.convert_layout") <= exchanges
