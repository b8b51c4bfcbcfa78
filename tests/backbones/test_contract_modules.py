"""Networks are networks like any other in PyTorch; see the cases in `contract_modules`."""

import pytest
from contract_modules import BOTH, PLAIN
from families import FAMILIES, build_short

from localvit_det.ops import inhomogeneous


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain(family, case):
    case(lambda: build_short(family).eval())


@pytest.mark.parametrize("case", BOTH, ids=lambda case: case.__name__)
@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_forms(family, form, case):
    operator = getattr(inhomogeneous, "_InhomogeneousConv", None)
    if family == "IDynamicDWNet" and operator and "setup_context" not in vars(operator):
        pytest.xfail("the operator takes no transforms")
    case(lambda: build_short(family).eval() if form == "plain" else build_short(family).fuse())
