"""What a fit needs to know about a kind: its plugs. A new kind is a new set of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model
from streams.errors import TrainerError
from trainer.fit.dataset import Examples, Fold, Target, captions_of
from trainer.fit.options import FitOptions
from trainer.fit.rules import Rules
from trainer.fit.splitter import Splitter, draw
from trainer.snapshot.manifest import SnapshotManifest

ModelT = TypeVar("ModelT", bound=torch.nn.Module)

EncodeTexts = Callable[[Sequence[str]], torch.Tensor]
"""Texts to vectors of shape (B, D), in the space of the images."""

Metrics = Callable[[Sequence[Any], Sequence[Sequence[Any]]], Mapping[str, float]]
"""What a model made of N documents as it would be stored, and the targets of each, to figures."""


class KindOptions(BaseModel):
    """What a kind can be told about a fit; this one, nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What a fit computes with.

    Attributes:
        device: Where it computes; the version is made on the CPU.
        encode_texts: The text tower that belongs to what is read; None when there is none.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it is immutable
    encode_texts: EncodeTexts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What there is to learn from.

    Attributes:
        model: The model to be fitted.
        manifest: Of the snapshot.
        train: The train fold.
        valid: The valid fold.
        options: What decides the fit.
        of_kind: The kind's own options.
        directory: Directory of the run, for what is expensive to make twice.
        encode_texts: The text tower that belongs to what is read; None when there is none.
    """

    model: Model
    manifest: SnapshotManifest
    train: Fold
    valid: Fold
    options: FitOptions
    of_kind: Any
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
    """How models of one kind are fitted.

    Attributes:
        task: Makes the model and its examples. Random numbers of torch are seeded around the call.
        outputs: What is compared with the targets: (model, inputs of a batch, its targets).
        loss: Loss of a batch, a scalar: (outputs, targets).
        bundle: The version: (model, material, metrics).
        rules: How two versions compare.
        target: What is to be learned of a document.
        splitter: Which document meets which of its targets in an epoch.
        metrics: What else is measured on what the model makes; None for nothing.
        at_end: What the kind measures on the valid fold at the end: (model, task, options).
        options: The kind's own options.
        learns_from: Fields, and `_outputs.<model>`, that `target` reads beside captions.
        has_loss: Whether there is a loss; without one nothing can be fitted.
    """

    task: Callable[[Material], Task[ModelT]]
    outputs: Callable[[ModelT, Any, Any], Any]
    loss: Callable[[Any, Any], torch.Tensor]
    bundle: Callable[[ModelT, Material, Mapping[str, float]], Bundle]
    rules: Rules
    target: Target = captions_of
    splitter: Splitter = draw
    metrics: Metrics | None = None
    at_end: Callable[[ModelT, Task[ModelT], FitOptions], Mapping[str, float]] = (
        lambda model, task, options: {}
    )
    options: type[BaseModel] = KindOptions
    learns_from: tuple[str, ...] = ()
    has_loss: bool = True

    def objective(self, model: ModelT, inputs: Any, targets: Any) -> torch.Tensor:
        """Return the loss of a batch."""
        return self.loss(self.outputs(model, inputs, targets), targets)


def vectors_of(fold: Fold, model: Model) -> torch.Tensor:
    """Return the vectors that a model reads which reads nothing else, of shape (N, D).

    Raises:
        TrainerError: It reads something else.
    """
    if len(fold.inputs) == 1:
        [data] = fold.inputs.values()
        if isinstance(data, torch.Tensor):
            return data
    msg = (
        f"{model.name} is of the kind {model.declaration.kind}, which reads the vector of one model"
        " and nothing else: declare it so"
    )
    raise TrainerError(msg)
