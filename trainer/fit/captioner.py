"""The plugs of `conditional_lm`: captions as token ids, the seed's loss."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.errors import TooLittleData
from streams.models import conditional_lm
from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.vocabulary import Vocabulary
from streams.models.words import words_of
from trainer.fit.dataset import Fold, keep_captions, make_examples
from trainer.fit.options import FitOptions
from trainer.fit.plugs import Material, Plugs, Task
from trainer.snapshot.files import SnapshotManifest

log = get_logger(__name__)


def make_task(material: Material) -> Task[ConditionalLM]:
    """Return a captioner whose vocabulary comes from the train fold alone.

    Captions without a word are passed over, and the images that have no other.

    Raises:
        TooLittleData: No word occurs often enough, or a fold has no caption with a word.
    """
    options = material.options
    train = _with_words(material.train, "train", options)
    valid = _with_words(material.valid, "valid", options)
    vocabulary = Vocabulary.from_captions(
        train.captions, min_count=options.min_count, normalization=options.normalization
    )
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
        train=make_examples(train, encode),
        valid=make_examples(valid, encode),
    )


def _with_words(fold: Fold, name: str, options: FitOptions) -> Fold:
    """Return a fold without the captions that teach nothing but to be empty; say how many went."""
    lengths = Counter(len(words_of(text, options.normalization)) for text in fold.captions)
    too_long = sum(n for length, n in lengths.items() if length > options.max_length)
    if too_long:
        log.warning("captions are cut to --max-length", fold=name, captions=too_long)
    if not lengths[0]:
        return fold
    if lengths.total() == lengths[0]:
        msg = (
            f"no caption of the fold {name} has a word with --normalization"
            f" {options.normalization}: take `unicode`, which knows the letters of every script"
        )
        raise TooLittleData(msg)
    log.warning("captions without a word are passed over", fold=name, captions=lengths[0])
    return keep_captions(fold, lambda text: bool(words_of(text, options.normalization)))


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
        name="conditional_lm",
        feature="clip",
        feature_version=manifest.clip_version,
        metrics=dict(found),
        snapshot_id=manifest.snapshot_id,
    )


CAPTIONER: Plugs[ConditionalLM] = Plugs(
    name="conditional_lm", task=make_task, objective=objective, metrics=metrics, bundle=bundle
)
