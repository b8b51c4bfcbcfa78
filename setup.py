"""What pyproject.toml cannot say: configs are copied into the package. `pip install .[lite]` needs no compiled MMCV."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies the configs to where OpenMMLab's packages have theirs, and `mim` and MMEngine look for them."""

    def run(self) -> None:
        """Build; an editable installation reads the checkout's own configs."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "localvit_det/.mim"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree(here / "configs", target / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(here / "model-index.yml", target)
        (target / "tools").mkdir()
        for name in ("train.py", "test.py"):  # what `mim train` and `mim test` run
            shutil.copy2(here / "tools" / name, target / "tools")


setup(cmdclass={"build_py": BuildWithConfigs})
