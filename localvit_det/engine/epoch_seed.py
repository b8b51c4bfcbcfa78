"""Random numbers that depend on the epoch, not on what ran before it."""

import random

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds every generator of the process at the start of each epoch, for trainings with MMEngine's own Runner.

    `ReliableRunner` needs no such hook: its loops seed every iteration and every image.

    MMEngine's checkpoints hold the seed but not the generators' states, so a resumed run would draw other
    samples than the uninterrupted one. With this hook both draw the same: stopping and resuming at the end of an
    epoch leaves the weights unchanged, to the bit where the operators are deterministic (on a CPU they are). Data
    loader workers keep generators of their own: there it holds with `num_workers=0`.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds Python's, NumPy's and PyTorch's generators, and the order of the images."""
        seed = (runner.seed + 1_000_003 * runner.epoch + get_rank()) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)  # all devices
        # A sampler is built before a checkpoint tells the run's seed.
        loader = runner.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if hasattr(sampler, "seed"):
                sampler.seed = runner.seed
