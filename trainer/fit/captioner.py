"""The plugs of the kind `gru`: captions as token ids, the seed's loss."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from pydantic import Field
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.errors import TooLittleData
from streams.models import conditional_lm
from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.vocabulary import Vocabulary
from streams.models.words import Normalization, words_of
from trainer.fit.dataset import Examples, Fold, keep_targets
from trainer.fit.plugs import KindOptions, Material, Plugs, Task, vectors_of
from trainer.fit.rules import Rules

log = get_logger(__name__)


class CaptionerOptions(KindOptions):
    """What decides how a captioner is made.

    Attributes:
        normalization: What counts as a word: letters of every script, and each character of those
            without spaces (`unicode`); or the letters a to z only (`seed`).
        min_count: A word belongs to the vocabulary if it occurs more often than this in the train
            fold.
        max_length: Most words of a caption; longer ones are cut.
        hidden: Size of the captioner's state.
    """

    normalization: Normalization = Normalization.UNICODE
    min_count: int = Field(5, ge=0)
    max_length: int = Field(15, ge=1, le=1000)
    hidden: int = Field(512, ge=1)


def make_task(material: Material) -> Task[ConditionalLM]:
    """Return a captioner whose vocabulary comes from the train fold alone.

    Captions without a word are passed over, and the images that have no other.

    Raises:
        TooLittleData: No word occurs often enough, or a fold has no caption with a word.
    """
    options = material.of_kind
    train = _with_words(material.train, "train", options)
    valid = _with_words(material.valid, "valid", options)
    vocabulary = Vocabulary.from_captions(
        train.targets, min_count=options.min_count, normalization=options.normalization
    )
    if len(vocabulary) == 1:
        msg = (
            f"no word occurs more than {options.min_count} times in the train fold:"
            " lower min_count by --option, or insert more documents"
        )
        raise TooLittleData(msg)
    vectors = vectors_of(train, material.model)
    return Task(
        model=ConditionalLM(
            vocabulary,
            n_condition=vectors.shape[1],
            n_hidden=options.hidden,
            max_length=options.max_length,
        ),
        train=_examples(train, vocabulary, options, vectors),
        valid=_examples(valid, vocabulary, options, vectors_of(valid, material.model)),
    )


def _examples(
    fold: Fold, vocabulary: Vocabulary, options: CaptionerOptions, vectors: torch.Tensor
) -> Examples:
    targets = encode_captions(fold.targets, vocabulary=vocabulary, max_length=options.max_length)
    return Examples(inputs=vectors, targets=targets, offsets=fold.offsets)


def _with_words(fold: Fold, name: str, options: CaptionerOptions) -> Fold:
    """Return a fold without the captions that teach nothing but to be empty; say how many went."""
    lengths = Counter(len(words_of(text, options.normalization)) for text in fold.targets)
    too_long = sum(n for length, n in lengths.items() if length > options.max_length)
    if too_long:
        log.warning("captions are cut to max_length", fold=name, captions=too_long)
    if not lengths[0]:
        return fold
    if lengths.total() == lengths[0]:
        msg = (
            f"no caption of the fold {name} has a word with normalization={options.normalization}:"
            " take `unicode`, which knows the letters of every script"
        )
        raise TooLittleData(msg)
    log.warning("captions without a word are passed over", fold=name, captions=lengths[0])
    return keep_targets(fold, lambda text: bool(words_of(text, options.normalization)))


def encode_captions(
    captions: Sequence[str], *, vocabulary: Vocabulary, max_length: int
) -> torch.Tensor:
    """Return token ids, int64 of shape (M, max_length + 1)."""
    return torch.tensor([vocabulary.encode(text, max_length=max_length) for text in captions])


def outputs(model: ConditionalLM, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return logits of each token after those before it: (B, T, V + 2)."""
    starts = targets.new_full((targets.shape[0], 1), model.vocabulary.start)
    return model.train_forward(vectors, torch.cat([starts, targets[:, :-1]], dim=1))


def bundle(model: ConditionalLM, material: Material, found: Mapping[str, float]) -> Bundle:
    """Return the version."""
    [feature] = material.model.reads
    return conditional_lm.to_bundle(
        model,
        name=material.model.name,
        feature=feature,
        feature_version=material.manifest.features[feature].version,
        metrics=dict(found),
        snapshot_id=material.manifest.snapshot_id,
    )


CAPTIONER: Final[Plugs[ConditionalLM]] = Plugs(
    options=CaptionerOptions,
    task=make_task,
    outputs=outputs,
    loss=autoregressive_loss,
    bundle=bundle,
    rules=Rules(
        decides="cider",
        lower_is_better=frozenset({"loss", "unknown_words", "empty_captions"}),
        # A document with an empty caption is as good as lost: it has its output, which is empty.
        at_most={"empty_captions": 0.1},
    ),
)
