"""The frozen validation set that every version of a model is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One document of the set."""

    id: str
    captions: tuple[str, ...]
    clip: np.ndarray
    scene: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """The set."""

    name: str
    seed: int
    clip_version: str
    digest: str
    entries: tuple[Entry, ...]
