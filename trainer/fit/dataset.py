"""Images and captions in memory: what a fit learns from, as tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import torch

from streams.errors import TooLittleData
from trainer.snapshot.files import Snapshot

EncodeCaptions = Callable[[Sequence[str]], torch.Tensor]
"""M captions to their targets, a tensor whose first dimension is M."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """The documents of one fold.

    Attributes:
        vectors: Image vectors, float32 of shape (N, D): 4 D bytes a document, all in memory.
        captions: All captions, those of one image side by side; M of them.
        offsets: Where the captions of each image begin, N + 1 numbers.
    """

    vectors: torch.Tensor
    captions: tuple[str, ...]
    offsets: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Images, and the targets that belong to each.

    Attributes:
        vectors: Float32 of shape (N, D).
        targets: One for each caption, of shape (M, ...).
        offsets: Where the targets of each image begin, int64 of shape (N + 1,).
    """

    vectors: torch.Tensor
    targets: torch.Tensor
    offsets: torch.Tensor

    def __len__(self) -> int:
        """Return N."""
        return self.vectors.shape[0]


def read_fold(snapshot: Snapshot, fold: str) -> Fold:
    """Return the documents of one fold.

    Raises:
        TooLittleData: There are none.
        InvalidSnapshot: The snapshot is damaged.
    """
    count = snapshot.manifest.folds.get(fold, 0)
    if count == 0:
        msg = f"the snapshot holds no document of the fold `{fold}`; insert more documents"
        raise TooLittleData(msg)
    vectors = np.empty((count, snapshot.manifest.dimension), np.float32)
    captions: list[list[str]] = []
    for batch in snapshot.batches(columns=["captions", "clip"], fold=fold):
        rows = batch.num_rows
        flat = batch.column("clip").flatten().to_numpy(zero_copy_only=False)
        vectors[len(captions) : len(captions) + rows] = flat.reshape(rows, -1)
        captions += batch.column("captions").to_pylist()
    return Fold(
        vectors=torch.from_numpy(vectors),
        captions=tuple(chain.from_iterable(captions)),
        offsets=torch.tensor([0, *accumulate(map(len, captions))]),
    )


def keep_captions(fold: Fold, is_kept: Callable[[str], bool]) -> Fold:
    """Return a fold with some of its captions, without the images that have none of these."""
    bounds = fold.offsets.tolist()
    captions = [
        [text for text in fold.captions[begin:end] if is_kept(text)]
        for begin, end in pairwise(bounds)
    ]
    images = [number for number, kept in enumerate(captions) if kept]
    return Fold(
        vectors=fold.vectors[images],
        captions=tuple(chain.from_iterable(captions)),
        offsets=torch.tensor([0, *accumulate(len(captions[number]) for number in images)]),
    )


def make_examples(fold: Fold, encode: EncodeCaptions) -> Examples:
    """Return a fold with its captions encoded, once for all epochs."""
    return Examples(vectors=fold.vectors, targets=encode(fold.captions), offsets=fold.offsets)
