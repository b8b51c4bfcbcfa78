"""The generated configs are what their tables give."""

import make_configs


def test_configs_are_current():
    assert not make_configs.stale(), "run tools/make_configs.py"
