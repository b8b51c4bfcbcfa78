"""What people do with any network in PyTorch, as cases that take nothing but a factory of networks.

`tests/backbones/test_backbones.py` runs them over all families, `python -m benchmarks.contract` over timm's, too.
A case is a function that takes a factory and raises what goes wrong, decorated with `case` in a module imported below.
"""

from . import building, edges, modules, states
from .cases import CASES, MakeNet, NotApplicable

__all__ = ["CASES", "MakeNet", "NotApplicable", "building", "edges", "modules", "states"]
