"""The plugs of `conditional_lm`: captions as token ids, the seed's loss."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from streams.errors import TooLittleData
from streams.models import conditional_lm
from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.manifest import Bundle
from streams.models.vocabulary import Vocabulary
from trainer.dataset import make_examples
from trainer.options import FitOptions
from trainer.plugs import Material, Plugs, Task
from trainer.snapshot import SnapshotManifest


def make_task(material: Material) -> Task[ConditionalLM]:
    """Return a captioner whose vocabulary comes from the train fold alone.

    Raises:
        TooLittleData: No word occurs often enough.
    """
    options = material.options
    vocabulary = Vocabulary.from_captions(material.train.captions, min_count=options.min_count)
    if len(vocabulary) == 1:
        msg = (
            f"no word occurs more than {options.min_count} times in the train fold:"
            " lower --min-count or insert more documents"
        )
        raise TooLittleData(msg)
    encode = partial(encode_captions, vocabulary=vocabulary, max_length=options.max_length)
    return Task(
        model=ConditionalLM(
            vocabulary,
            n_condition=material.manifest.dimension,
            n_hidden=options.hidden,
            max_length=options.max_length,
        ),
        train=make_examples(material.train, encode),
        valid=make_examples(material.valid, encode),
    )


def encode_captions(
    captions: Sequence[str], *, vocabulary: Vocabulary, max_length: int
) -> torch.Tensor:
    """Return token ids, int64 of shape (M, max_length + 1)."""
    return torch.tensor([vocabulary.encode(text, max_length=max_length) for text in captions])


def objective(model: ConditionalLM, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the autoregressive loss: cross-entropy up to the first stop, averaged per row."""
    starts = targets.new_full((targets.shape[0], 1), model.vocabulary.start)
    tokens = torch.cat([starts, targets[:, :-1]], dim=1)  # (B, T)
    return autoregressive_loss(model.train_forward(vectors, tokens), targets)


def metrics(
    model: ConditionalLM, task: Task[ConditionalLM], options: FitOptions
) -> Mapping[str, float]:
    """Return nothing more: captions are measured on the frozen validation set."""
    return {}


def bundle(model: ConditionalLM, manifest: SnapshotManifest, found: Mapping[str, float]) -> Bundle:
    """Return the version."""
    return conditional_lm.to_bundle(
        model,
        clip_version=manifest.clip_version,
        metrics=dict(found),
        snapshot_id=manifest.snapshot_id,
    )


CAPTIONER: Plugs[ConditionalLM] = Plugs(
    name=conditional_lm.NAME, task=make_task, objective=objective, metrics=metrics, bundle=bundle
)
