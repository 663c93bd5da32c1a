"""The plugs of `clip_projection`: an image and its caption meet on a smaller sphere."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from streams.contract.manifest import Bundle
from streams.errors import TrainerError
from streams.models import projection
from streams.models.projection import orthogonal_projection
from trainer.fit.dataset import Fold, make_examples
from trainer.fit.options import FitOptions
from trainer.fit.plugs import Material, Plugs, Task
from trainer.fit.run_directory import writing
from trainer.fit.splitter import FIXED, draw
from trainer.snapshot.files import SnapshotManifest

_CACHE: Final = "captions.safetensors"
#: CLIP's first temperature is 0.07, and its scale is kept below 100. Source: Radford et al. 2021.
_FIRST_TEMPERATURE: Final = 0.07
_MOST_SCALE: Final = 100.0
#: Captions that are compared with all images of the valid fold in one go.
_TEXTS_AT_ONCE: Final = 256


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
    """Return the projection; captions become CLIP vectors, once for a run.

    Raises:
        TrainerError: CLIP's text tower is not at hand.
    """
    dimension = material.manifest.dimension
    texts = _encoded(material)
    count = len(material.train.captions)
    return Task(
        model=SharedProjection(dimension, material.options.dimension, seed=material.options.seed),
        train=make_examples(material.train, lambda _: texts[:count]),
        valid=make_examples(material.valid, lambda _: texts[count:]),
    )


def objective(
    model: SharedProjection, vectors: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return CLIP's loss: cross-entropy of the true pair, over texts and over images, averaged."""
    logits = model.similarities(vectors, targets)  # (B, B)
    truth = torch.arange(logits.shape[0])
    over_texts = functional.cross_entropy(logits, truth)
    return (over_texts + functional.cross_entropy(logits.T, truth)) / 2


@torch.inference_mode()
def metrics(
    model: SharedProjection, task: Task[SharedProjection], options: FitOptions
) -> Mapping[str, float]:
    """Return how often a caption finds its image first, or among five, in the valid fold.

    Memory grows with the fold, not with its square.
    """
    images, texts = draw(task.valid, seed=options.seed, epoch=FIXED)
    rows = model.projection(task.valid.vectors[images])  # (N, P)
    columns = model.projection(task.valid.targets[texts])  # (N, P)
    parts = []
    for start in range(0, len(columns), _TEXTS_AT_ONCE):
        cosines = columns[start : start + _TEXTS_AT_ONCE] @ rows.T  # (B, N)
        mine = cosines.diagonal(start).unsqueeze(1)  # (B, 1)
        # Images that a text likes as well as its own count before it: a constant model earns
        # nothing.
        parts.append((cosines >= mine).sum(dim=1))
    ranks = torch.cat(parts)
    return {f"valid_recall_at_{k}": round(float((ranks <= k).double().mean()), 6) for k in (1, 5)}


def bundle(
    model: SharedProjection, manifest: SnapshotManifest, found: Mapping[str, float]
) -> Bundle:
    """Return the version."""
    return projection.to_bundle(
        model.projection.eval().requires_grad_(False),
        name="clip_projection",
        feature="clip",
        feature_version=manifest.clip_version,
        metrics=dict(found),
        snapshot_id=manifest.snapshot_id,
    )


def _encoded(material: Material) -> torch.Tensor:
    """Return the vectors of all captions, train first: (M, D). Kept in the run's directory."""
    folds: Sequence[Fold] = (material.train, material.valid)
    captions = [text for fold in folds for text in fold.captions]
    shape = (len(captions), material.manifest.dimension)
    path = material.directory / _CACHE
    try:
        texts = load_file(path)["texts"]
    except (FileNotFoundError, SafetensorError, KeyError):
        texts = torch.empty(0)
    if texts.shape == shape:
        return texts
    if material.encode_texts is None:
        msg = "clip_projection is fitted on captions: CLIP's text tower is needed"
        raise TrainerError(msg)
    texts = material.encode_texts(captions).float().contiguous()
    if texts.shape != shape:
        msg = f"CLIP makes text vectors of {tuple(texts.shape)}, the images need {shape}"
        raise TrainerError(msg)
    with writing(material.directory):
        save_file({"texts": texts}, path)
    return texts


PROJECTOR: Plugs[SharedProjection] = Plugs(
    name="clip_projection", task=make_task, objective=objective, metrics=metrics, bundle=bundle
)
