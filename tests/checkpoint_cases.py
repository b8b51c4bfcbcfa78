"""Checkpoints that would run code, and what refuses them."""

import pytest

from localvit_det.errors import CheckpointError


class Runs:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def refusal(load, *arguments) -> str:
    """The sentence that a load ends with."""
    with pytest.raises(CheckpointError) as caught:
        load(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence
