"""Which document meets which of its targets, and when: follows from seed and epoch alone.

So an epoch can be repeated after a kill without the state of any generator.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from trainer.fit.dataset import Examples, take

#: Epochs that a seed can have before two seeds share one; any prime above the most epochs does.
STRIDE: Final = 1_000_003
#: The epoch of a draw that is the same throughout a fit.
FIXED: Final = 0

Splitter = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""As `draw`: (examples, seed=, epoch=) to indices of documents and of targets, equally many."""

Batch = tuple[Any, Any, int]
"""Inputs, a target for each, and how many there are."""


def draw(examples: Examples, *, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every document once, in a new order, each with one of its targets.

    Args:
        examples: N documents with M targets.
        seed: Of the whole fit.
        epoch: From 1; `FIXED` for a draw that stays.

    Returns:
        Indices of documents and of targets, int64 of shape (N,) both.
    """
    generator = torch.Generator().manual_seed(seed * STRIDE + epoch)
    documents = torch.randperm(len(examples), generator=generator)
    counts = examples.offsets[documents + 1] - examples.offsets[documents]
    # float64: with float32 a product could be rounded up to the count itself.
    chance = torch.rand(len(examples), generator=generator, dtype=torch.float64)
    return documents, examples.offsets[documents] + (chance * counts).long()


def batches(
    examples: Examples, *, seed: int, epoch: int, size: int, splitter: Splitter = draw
) -> Iterator[Batch]:
    """Yield the draw of one epoch in batches; the last one may be smaller."""
    documents, targets = splitter(examples, seed=seed, epoch=epoch)
    for start in range(0, len(documents), size):
        part = slice(start, start + size)
        chosen = documents[part]
        yield take(examples.inputs, chosen), take(examples.targets, targets[part]), len(chosen)
