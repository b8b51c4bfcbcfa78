"""The text of a config is formatted once, and anew when the config changes."""

import pytest
from mmengine.config import Config
from mmengine.config import config as module

from localvit_det.compat import config_text


def test_a_library_without_that_formatter_is_left_alone(monkeypatch):
    monkeypatch.delattr(module, "FormatCode", raising=False)
    config_text.install()
    assert not hasattr(module, "FormatCode")


@pytest.mark.skipif(not hasattr(module, "FormatCode"), reason="OneDL's MMEngine formats elsewhere")
def test_formatted_once(monkeypatch):
    calls = []

    def slow(text, style_config, verify=False):
        calls.append(text)
        return f"# formatted\n{text}", True

    monkeypatch.setattr(module, "FormatCode", slow)
    config_text.install()
    config_text.install()
    cfg = Config({"a": {"b": 1}})
    assert cfg.pretty_text == cfg.pretty_text
    assert cfg.pretty_text.startswith("# formatted\n")
    assert len(calls) == 1
    cfg.a.b = 2
    assert "b=2" in cfg.pretty_text
    assert len(calls) == 2
