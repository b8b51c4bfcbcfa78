"""Local vision transformers as backbones for MMDetection.

Importing this package is all that is needed: it checks the installation, mends what stock OpenMMLab lacks on
today's PyTorch (see :mod:`localvit_det.compat`), and registers everything in MMDetection's registries.
"""

from . import compat

compat.apply()  # before anything that imports mmcv.ops

from . import backbones, datasets, engine, evaluation, inference  # noqa: E402
from .checkpoint import load, write  # noqa: E402
from .registration import share_registrations  # noqa: E402

load.install()  # every load is converted, reported and checked
write.install()  # every checkpoint is written whole or not at all
share_registrations()  # MMSegmentation and MMPretrain know our names, too

__version__ = "0.1.0"
__all__ = ["__version__", "backbones", "datasets", "engine", "evaluation", "inference"]
