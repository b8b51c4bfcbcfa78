"""The contract of any network in PyTorch, over all families."""

import functools

import pytest
from contract import CASES, NotApplicable
from families import FAMILIES, build

# To be mended, one after the other.
OPEN = {
    "meta_device",
    "to_empty",
    "to_empty_filled",
    "materialized",
    "fake_tensors",
    "safetensors",
    "contiguous",
    "vector",
}
OPEN |= {"lbfgs", "pruning", "fewer_stages", *(name for name in CASES if name.startswith("empty_batch"))}
SLOW = {"adapters_have_effect", "torch_func", "wrapped_layers_are_not_fused", "written_weights_are_used_when_fused"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_case(name, family, request):
    if name in OPEN:
        request.applymarker(pytest.mark.xfail)
    try:
        CASES[name](functools.partial(build, family))
    except NotApplicable as reason:
        pytest.skip(str(reason))
