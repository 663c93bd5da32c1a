"""The folds: what people call them, and which one a document belongs to."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

from streams.contract.ids import document_key

FOLD: Final = "_fold"

Fold = Literal["train", "valid", "test"]
"""Learned from; decides when a fit stops; what versions are measured on, which no fit ever sees."""

#: What people call the folds, in lower case.
_FOLDS: Final[Mapping[str, Fold]] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
#: Documents (of 256) that a hash puts into "valid", and into "test": about 5 % each.
_OF_256: Final = 13


def fold_named(name: object) -> Fold | None:
    """Return the fold that people call so, in any case; None when no fold is."""
    return _FOLDS.get(name.strip().lower()) if isinstance(name, str) else None


def fold_of(document: Mapping[str, Any]) -> Fold | None:
    """Return the fold that `_fold` names, None when it names no fold.

    Where the field is absent or null, a stable hash of `_id` decides: 90 % train, 5 % each valid
    and test.
    """
    stored = document.get(FOLD)
    if stored is not None:
        return fold_named(stored)
    first = hashlib.blake2b(document_key(document["_id"]), digest_size=1).digest()[0]
    if first < 2 * _OF_256:
        return "valid" if first < _OF_256 else "test"
    return "train"
