"""The plugs of the kind `linear`: an image and its caption meet on a smaller sphere."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from streams.contract.manifest import Bundle
from streams.errors import TrainerError
from streams.models import projection
from streams.models.projection import orthogonal_projection
from trainer.fit.dataset import Examples, Fold, take
from trainer.fit.options import FitOptions
from trainer.fit.plugs import KindOptions, Material, Plugs, Task, vectors_of
from trainer.fit.rules import Rules
from trainer.fit.run_directory import writing
from trainer.fit.splitter import FIXED, draw

_CACHE: Final = "captions.safetensors"
#: CLIP's first temperature is 0.07, and its scale is kept below 100. Source: Radford et al. 2021.
_FIRST_TEMPERATURE: Final = 0.07
_MOST_SCALE: Final = 100.0
#: Captions that are compared with all images of the valid fold in one go.
_TEXTS_AT_ONCE: Final = 256


class ProjectorOptions(KindOptions):
    """What decides how a projection is made.

    Attributes:
        dimension: Length of projected vectors.
    """

    dimension: int = Field(512, ge=1)


class SharedProjection(torch.nn.Module):
    """One projection for images and for captions, and a temperature.

    CLIP has put images and texts into one space already; one matrix for both keeps it one, so a
    version needs nothing else to compare a text with projected images. It begins orthogonal, which
    keeps angles.
    """

    def __init__(self, dimension_in: int, dimension_out: int, *, seed: int) -> None:
        """Make it, for vectors of (B, dimension_in)."""
        super().__init__()
        self.projection = orthogonal_projection(dimension_in, dimension_out, seed=seed)
        self.log_scale = torch.nn.Parameter(torch.tensor(1 / _FIRST_TEMPERATURE).log())
        self.train().requires_grad_(True)

    def similarities(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return scaled cosines of every image with every text: (B, D), (C, D) -> (B, C)."""
        scale = self.log_scale.exp().clamp(max=_MOST_SCALE)
        cosines: torch.Tensor = self.projection(images) @ self.projection(texts).T
        return scale * cosines


def make_task(material: Material) -> Task[SharedProjection]:
    """Return the projection; captions become vectors, once for a run.

    Raises:
        TrainerError: The text tower that belongs to the vectors is not at hand.
    """
    train, valid = (vectors_of(f, material.model) for f in (material.train, material.valid))
    texts = _encoded(material, train.shape[1])
    count = len(material.train.targets)
    return Task(
        model=SharedProjection(
            train.shape[1], material.of_kind.dimension, seed=material.options.seed
        ),
        train=Examples(inputs=train, targets=texts[:count], offsets=material.train.offsets),
        valid=Examples(inputs=valid, targets=texts[count:], offsets=material.valid.offsets),
    )


def outputs(model: SharedProjection, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return scaled cosines of every image of the batch with every text of it, (B, B)."""
    return model.similarities(vectors, targets)


def loss(logits: torch.Tensor, targets: Any) -> torch.Tensor:
    """Return CLIP's loss: cross-entropy of the true pair, over texts and over images, averaged."""
    truth = torch.arange(logits.shape[0], device=logits.device)
    over_texts = functional.cross_entropy(logits, truth)
    return (over_texts + functional.cross_entropy(logits.T, truth)) / 2


@torch.inference_mode()
def at_end(
    model: SharedProjection, task: Task[SharedProjection], options: FitOptions
) -> Mapping[str, float]:
    """Return how often a caption finds its image first, or among five, in the valid fold.

    Memory grows with the fold, not with its square.
    """
    images, texts = draw(task.valid, seed=options.seed, epoch=FIXED)
    inputs, targets = take(task.valid.inputs, images), take(task.valid.targets, texts)
    rows = model.projection(inputs)  # (N, P)
    columns = model.projection(targets)  # (N, P)
    parts = []
    for start in range(0, len(columns), _TEXTS_AT_ONCE):
        cosines = columns[start : start + _TEXTS_AT_ONCE] @ rows.T  # (B, N)
        mine = cosines.diagonal(start).unsqueeze(1)  # (B, 1)
        # Images that a text likes as well as its own count before it: a constant model earns
        # nothing.
        parts.append((cosines >= mine).sum(dim=1))
    ranks = torch.cat(parts)
    return {f"valid_recall_at_{k}": round(float((ranks <= k).double().mean()), 6) for k in (1, 5)}


def bundle(model: SharedProjection, material: Material, found: Mapping[str, float]) -> Bundle:
    """Return the version."""
    [feature] = material.model.reads
    return projection.to_bundle(
        model.projection.eval().requires_grad_(False),
        name=material.model.name,
        feature=feature,
        feature_version=material.manifest.features[feature].version,
        metrics=dict(found),
        snapshot_id=material.manifest.snapshot_id,
    )


def _encoded(material: Material, dimension: int) -> torch.Tensor:
    """Return the vectors of all captions, train first: (M, D). Kept in the run's directory."""
    folds: Sequence[Fold] = (material.train, material.valid)
    captions = [text for fold in folds for text in fold.targets]
    shape = (len(captions), dimension)
    path = material.directory / _CACHE
    try:
        texts = load_file(path)["texts"]
    except (FileNotFoundError, SafetensorError, KeyError):
        texts = torch.empty(0)
    if texts.shape == shape:
        return texts
    if material.encode_texts is None:
        msg = (
            f"{material.model.name} is fitted on captions as vectors: the model that it reads has"
            " to be one with a text tower (of the kind clip)"
        )
        raise TrainerError(msg)
    texts = material.encode_texts(captions).float().contiguous()
    if texts.shape != shape:
        msg = f"the text tower makes vectors of {tuple(texts.shape)}, the images need {shape}"
        raise TrainerError(msg)
    with writing(material.directory):
        save_file({"texts": texts}, path)
    return texts


PROJECTOR: Final[Plugs[SharedProjection]] = Plugs(
    options=ProjectorOptions,
    task=make_task,
    outputs=outputs,
    loss=loss,
    at_end=at_end,
    bundle=bundle,
    rules=Rules(decides="recall10", lower_is_better=frozenset({"loss", "median_rank"})),
)
