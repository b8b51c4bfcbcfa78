"""No fresh weight is far from where its distribution has it."""

import pytest
import torch
from families import FAMILIES, build

from localvit_det.layers import trunc_normal_

LIMIT = 6.0  # standard deviations


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_fresh_weight(family):
    for name, weight in build(family).named_parameters():
        if weight.dim() > 1:
            assert weight.abs().max() <= LIMIT * max(weight.std(), 0.02), name


def test_as_many_numbers_as_a_network_has():
    """The inverse distribution function, which MMEngine uses, gives -2.0 once in 2^24 numbers."""
    torch.manual_seed(0)
    numbers = trunc_normal_(torch.empty(2**25))
    assert numbers.abs().max() <= 0.1
    assert numbers.std() == pytest.approx(0.02, rel=1e-3)
    assert abs(numbers.mean()) < 2e-5
