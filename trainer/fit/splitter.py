"""Which image meets which of its captions, and when: follows from seed and epoch alone.

So an epoch can be repeated after a kill without the state of any generator.
"""

from collections.abc import Iterator
from typing import Final

import torch

from trainer.fit.dataset import Examples

#: Epochs that a seed can have before two seeds share one; any prime above the most epochs does.
_STRIDE: Final = 1_000_003
#: The epoch of a draw that is the same throughout a fit.
FIXED: Final = 0

Batch = tuple[torch.Tensor, torch.Tensor]
"""Image vectors (B, D), and a target for each (B, ...)."""


def draw(examples: Examples, *, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every image once, in a new order, each with one of its captions.

    Args:
        examples: N images with M captions.
        seed: Of the whole fit.
        epoch: From 1; `FIXED` for a draw that stays.

    Returns:
        Indices of images and of targets, int64 of shape (N,) both.
    """
    generator = torch.Generator().manual_seed(seed * _STRIDE + epoch)
    images = torch.randperm(len(examples), generator=generator)
    counts = examples.offsets[images + 1] - examples.offsets[images]
    # float64: with float32 a product could be rounded up to the count itself.
    chance = torch.rand(len(examples), generator=generator, dtype=torch.float64)
    return images, examples.offsets[images] + (chance * counts).long()


def batches(examples: Examples, *, seed: int, epoch: int, size: int) -> Iterator[Batch]:
    """Yield the draw of one epoch in batches; the last one may be smaller."""
    images, targets = draw(examples, seed=seed, epoch=epoch)
    for start in range(0, len(examples), size):
        part = slice(start, start + size)
        yield examples.vectors[images[part]], examples.targets[targets[part]]


def count_batches(examples: Examples, size: int) -> int:
    """Return how many batches an epoch has."""
    return -(-len(examples) // size)
