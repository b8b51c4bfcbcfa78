"""Cheap outputs are computed again instead of kept, and nothing else changes."""

import weakref
from functools import partial

import pytest
import torch

from benchmarks.traffic import Traffic
from localvit_det.ops import checkpointed, recompute, recomputed


def gradients(recompute: bool, norm: torch.nn.Module) -> list[torch.Tensor]:
    """Gradients of product(norm(x)), and the norm's statistics."""
    torch.manual_seed(0)
    before, product = (torch.nn.Conv2d(8, 8, 1, bias=False) for _ in range(2))
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    y = before(x)
    out = recomputed(norm, product, y) if recompute else product(norm(y))
    return [*torch.autograd.grad(out.square().sum(), (x, before.weight, product.weight)), *norm.buffers()]


IN_PLACE = (torch.nn.SiLU, torch.nn.LeakyReLU, torch.nn.ReLU, torch.nn.ELU, torch.nn.Mish, torch.nn.Hardswish)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: torch.nn.BatchNorm2d(8), torch.nn.GELU, torch.nn.ReLU6, torch.nn.PReLU, torch.nn.RReLU),
        *IN_PLACE,
        *(partial(kind, inplace=True) for kind in IN_PLACE),
    ],
)
def test_gradients_and_statistics_are_the_same(make):
    torch.testing.assert_close(gradients(True, make()), gradients(False, make()), rtol=1e-6, atol=1e-6)


def test_output_is_not_kept():
    product, outputs = torch.nn.Conv2d(8, 8, 1), []

    def then(activated: torch.Tensor) -> torch.Tensor:
        outputs.append(weakref.ref(activated))
        return product(activated)

    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    out = recomputed(torch.nn.ReLU6(), then, x)
    assert outputs[0]() is None
    out.sum().backward()
    assert x.grad.abs().sum() > 0


def test_tensors_without_data_are_recomputed_too():
    """What runs on the meta device is counted, and has to be what a GPU would run."""
    norm, product = torch.nn.BatchNorm2d(8, device="meta"), torch.nn.Conv2d(8, 8, 1, device="meta")
    x = torch.empty(2, 8, 6, 6, device="meta", requires_grad=True)
    out = recomputed(norm, product, x)
    with Traffic() as traffic:
        out.backward(torch.empty_like(out))
    assert traffic.kernels["native_batch_norm"] == traffic.kernels["native_batch_norm_backward"] == 1


def test_compilers_see_the_checkpoint_that_they_know(monkeypatch):
    block, x = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.Tanh()), torch.randn(2, 4, 5, 6)
    plain = torch.autograd.grad(block(x).sum(), block.parameters())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(recompute, "_second_run", None)  # its context is for others
    found = checkpointed(block, x)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), block.parameters()), plain)
