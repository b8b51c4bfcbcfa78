"""Batches that can be entered anywhere, and images whose augmentation depends on their place in the order alone.

What a training draws depends on the run's seed, the epoch, and the place of an image in the epoch's order: not on
which worker loads it, how many there are, or whether the training was ever stopped. Skipping what a resumed training
has seen loads nothing.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

_IMAGES, _ITERATIONS = 0, 1  # two rows of random numbers that never meet


def seed_iteration(seed: int, iteration: int) -> None:
    """Seeds all generators of this process for one iteration; processes of one run differ."""
    _seed_generators(seed, _ITERATIONS, iteration, dist.get_rank())


def _seed_generators(*key: int) -> None:
    first, second, *words = map(int, np.random.SeedSequence(key).generate_state(4))
    random.seed(first)
    np.random.seed(second)
    value = words[0] | words[1] << 32
    # torch.manual_seed also prepares GPUs that nobody uses, which costs more than all the rest.
    torch.default_generator.manual_seed(value)
    if get_worker_info() is None and get_device() != "cpu":
        torch.manual_seed(value)


class SeededBatch(list):
    """Indices of a batch, with the keys of the random numbers of its images."""

    keys: list[tuple[int, ...]]


class SeededFetch:
    """Loads a batch image by image, each with random numbers of its own.

    It stands as `__getitems__` in a data set, where data loaders look for it in any process.
    """

    def __init__(self, dataset: object) -> None:
        self.dataset = dataset

    def __call__(self, batch: list) -> list:
        keys = getattr(batch, "keys", None)
        if keys is None:  # somebody's own loader
            return [self.dataset[index] for index in batch]
        whole = getattr(type(self.dataset), "__getitems__", None)
        if whole is not None:
            _seed_generators(*keys[0])
            return whole(self.dataset, list(batch))
        items = []
        for index, key in zip(batch, keys, strict=True):
            _seed_generators(*key)
            items.append(self.dataset[index])
        return items


class ResumableBatches:
    """Another batch sampler's batches, from any one on.

    Args:
        inner: The batch sampler; its order may depend on nothing but seed and epoch.
    """

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self._seed = self._epoch = self._skipped = 0

    def seek(self, seed: int, epoch: int, batches: int) -> None:
        """Lets the next pass be that of `epoch`, without its first `batches` batches."""
        self._seed, self._epoch, self._skipped = seed, epoch, batches
        sampler = self.inner.sampler
        if hasattr(sampler, "seed"):  # it was built before a checkpoint told the run's seed
            sampler.seed = seed
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()  # else it goes on where it was
        if hasattr(self.inner, "_aspect_ratio_buckets"):
            self.inner._aspect_ratio_buckets = [[], []]  # leftovers of a pass that was not finished

    def __iter__(self) -> Iterator[SeededBatch]:
        skipped, self._skipped = self._skipped, 0
        rank, processes = dist.get_dist_info()
        drawn = 0
        for number, indices in enumerate(self.inner):
            if number >= skipped:
                batch = SeededBatch(indices)
                # The place in the order of all processes together: their number changes nothing.
                places = ((drawn + slot) * processes + rank for slot in range(len(indices)))
                batch.keys = [(self._seed, _IMAGES, self._epoch, place) for place in places]
                yield batch
            drawn += len(indices)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> object:
        if name == "inner":  # not there yet while being unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)


def make_resumable(loader: DataLoader) -> ResumableBatches | None:
    """Lets a loader yield its batches from anywhere on; doing so again changes nothing.

    Returns:
        What to call `seek` of, None for a loader without batches of indices (its data cannot be skipped unread).
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    if not isinstance(loader.batch_sampler, ResumableBatches):
        # A loader refuses a new batch sampler, since its other settings might not agree; here they do.
        object.__setattr__(loader, "batch_sampler", ResumableBatches(loader.batch_sampler))
        loader.dataset.__getitems__ = SeededFetch(loader.dataset)
    return loader.batch_sampler
