"""The contract of any network in PyTorch, over all families."""

import functools

import pytest
from contract import CASES, NotApplicable
from families import FAMILIES, build

SLOW = {"adapters_have_effect", "torch_func", "wrapped_layers_are_not_fused", "written_weights_are_used_when_fused"}
QUICK = ("MSGTransformer",)  # which has most of its own


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_case(name, family):
    try:
        CASES[name](functools.partial(build, family, window_size=5, depths=(2, 1, 1, 1)))  # both kinds of blocks
    except NotApplicable as reason:
        pytest.skip(str(reason))
