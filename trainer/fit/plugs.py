"""What a fit needs to know about a model: five plugs. A new model is a new set of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from streams.contract.manifest import Bundle
from trainer.fit.dataset import Examples, Fold
from trainer.fit.options import FitOptions
from trainer.snapshot.files import SnapshotManifest

ModelT = TypeVar("ModelT", bound=torch.nn.Module)

EncodeTexts = Callable[[Sequence[str]], torch.Tensor]
"""Texts to CLIP vectors of shape (B, D)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What there is to learn from.

    Attributes:
        manifest: Of the snapshot.
        train: The train fold.
        valid: The valid fold.
        options: What decides the fit.
        directory: Directory of the run, for what is expensive to make twice.
        encode_texts: CLIP's text tower; None when the caller has none.
    """

    manifest: SnapshotManifest
    train: Fold
    valid: Fold
    options: FitOptions
    directory: Path
    encode_texts: EncodeTexts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(Generic[ModelT]):
    """A model with its examples.

    Attributes:
        model: To be fitted, with its first weights.
        train: What it learns from.
        valid: What it is measured on after each epoch.
    """

    model: ModelT
    train: Examples
    valid: Examples


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugs(Generic[ModelT]):
    """How one model is fitted.

    Attributes:
        name: Name of the model.
        task: Makes targets from captions, and the model for them. Random numbers of torch are
            seeded around the call.
        objective: Loss of a batch, a scalar: (model, vectors (B, D), targets (B, ...)).
        metrics: What else is measured on the valid fold at the end, by name.
        bundle: The version: (model, manifest of the snapshot, metrics).
    """

    name: str
    task: Callable[[Material], Task[ModelT]]
    objective: Callable[[ModelT, torch.Tensor, torch.Tensor], torch.Tensor]
    metrics: Callable[[ModelT, Task[ModelT], FitOptions], Mapping[str, float]]
    bundle: Callable[[ModelT, SnapshotManifest, Mapping[str, float]], Bundle]
