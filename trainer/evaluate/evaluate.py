"""How good a model is on a frozen validation set. Pure: reads no database, writes nothing."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from streams.contract.documents import is_caption
from streams.contract.kinds import GRU, LINEAR
from streams.contract.manifest import Bundle, Manifest
from streams.errors import FeatureMismatch, SettingsError
from streams.models import conditional_lm, projection
from streams.models.conditional_lm import Caption, ConditionalLM, autoregressive_loss
from streams.models.projection import Projection
from streams.models.vocabulary import UNKNOWN
from trainer.evaluate.caption_metrics import has_words, score_captions
from trainer.evaluate.evaluation import Evaluation, GeneratedCaption
from trainer.fit.plugs import EncodeTexts
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import Scene
from trainer.snapshot.validation_set import Entry, ValidationSet

_DIGITS: Final = 6
_RECALLS: Final = (1, 5, 10)


def evaluate_bundle(
    bundle: Bundle,
    validation_set: ValidationSet,
    *,
    batch_size: int = 64,
    beam: int = 1,
    encode_texts: EncodeTexts | None = None,
) -> Evaluation:
    """Load a bundle of any trained model, and measure it.

    Raises:
        InvalidBundle: It cannot be loaded.
        FeatureMismatch: It was fitted on vectors of another CLIP version than the set's.
        SettingsError: There is no evaluation for this model, or what it needs was not given.
    """
    kind = bundle.manifest.kind
    check_clip_version(bundle.manifest, validation_set)
    if kind == GRU:
        captioner = conditional_lm.from_bundle(bundle)
        return evaluate_captioner(captioner, validation_set, batch_size=batch_size, beam=beam)
    if kind == LINEAR and encode_texts is not None:
        return evaluate_projection(projection.from_bundle(bundle), validation_set, encode_texts)
    msg = f"no evaluation of a {kind!r} model; expected {GRU}, or {LINEAR} with CLIP's text tower"
    raise SettingsError(msg)


def check_clip_version(manifest: Manifest, validation_set: ValidationSet) -> None:
    """Compare the CLIP version that a model was fitted on with the validation set's.

    Raises:
        FeatureMismatch: They differ.
    """
    for name, feature in manifest.features.items():
        if feature.version not in (None, validation_set.clip_version):
            msg = (
                f"{manifest.name} was fitted on {name} {feature.version}, the vectors of"
                f" validation set {validation_set.name!r} are of {validation_set.clip_version}"
            )
            raise FeatureMismatch(msg)


def evaluate_captioner(
    model: ConditionalLM, validation_set: ValidationSet, *, batch_size: int = 64, beam: int = 1
) -> Evaluation:
    """Generate a caption for every entry that has a reference with a word, and score them.

    Metrics: `loss` (the seed's autoregressive loss, a mean over all references; it depends on the
    model's vocabulary, and is absent if no reference has a word for it), `bleu1` to `bleu4`,
    `rouge_l`, `cider`, `unknown_words` (share of the references' words that it does not know),
    `empty_captions` (share of its captions without a word that it knows), `n`; and where entries
    are scenes `exact_match`, the share of right captions, with `exact_match_n`, the number of
    scenes.

    Raises:
        FeatureMismatch: The vectors have another length than the model reads.
        SettingsError: No entry has a reference with a word.
    """
    entries = _scorable(validation_set)
    vectors = _vectors(entries, model.n_condition, "conditional_lm")
    said = [
        caption
        for batch in torch.split(vectors, batch_size)
        for caption in model.generate(batch, beam_width=beam)
    ]
    captions = tuple(
        GeneratedCaption(
            id=entry.id,
            text=caption.text,
            score=caption.score,
            references=entry.captions,
            is_right=_judge(caption.text, entry),
        )
        for entry, caption in zip(entries, said, strict=True)
    )
    metrics = {
        **_captioner_loss(model, entries, vectors, batch_size),
        **score_captions([c.text for c in captions], [c.references for c in captions]),
        **_exact_match(captions),
        "unknown_words": _unknown_words(model, entries),
        "empty_captions": sum(map(_is_empty, said)) / len(said),
        "n": len(captions),
    }
    return _evaluation("conditional_lm", validation_set, metrics, beam=beam, captions=captions)


def evaluate_projection(
    model: Projection, validation_set: ValidationSet, encode_texts: EncodeTexts
) -> Evaluation:
    """Look up every entry's image by its first caption, both projected, among all images.

    Metrics: `recall1`, `recall5`, `recall10` (share of captions whose image is among the nearest
    so many by cosine), `median_rank` (1 is best), `n`.

    Raises:
        FeatureMismatch: The vectors have another length than the model reads.
        SettingsError: No entry has a reference with a word.
    """
    entries = _scorable(validation_set)
    vectors = _vectors(entries, model.dimension_in, "clip_projection")
    with torch.inference_mode():
        images = model(vectors)  # (N, P)
        texts = model(encode_texts([_first_caption(entry) for entry in entries]).float())  # (N, P)
        similarity = texts @ images.T  # (N, N)
        # Images as near as the right one count before it, so that a constant model earns nothing.
        ranks = (similarity >= similarity.diagonal().unsqueeze(1)).sum(dim=1)  # (N,)
    metrics = {f"recall{k}": float((ranks <= k).float().mean()) for k in _RECALLS}
    metrics |= {"median_rank": float(np.median(ranks.numpy())), "n": len(entries)}
    return _evaluation("clip_projection", validation_set, metrics)


def _evaluation(
    name: str,
    validation_set: ValidationSet,
    metrics: dict[str, float],
    *,
    beam: int = 1,
    captions: tuple[GeneratedCaption, ...] = (),
) -> Evaluation:
    return Evaluation(
        model=name,
        validation_set=validation_set.name,
        digest=validation_set.digest,
        beam=beam,
        metrics={key: round(float(value), _DIGITS) for key, value in metrics.items()},
        captions=captions,
    )


def _scorable(validation_set: ValidationSet) -> list[Entry]:
    entries = [entry for entry in validation_set.entries if any(map(has_words, entry.captions))]
    if not entries:
        msg = f"no entry of validation set {validation_set.name!r} has a caption with a word"
        raise SettingsError(msg)
    return entries


def _first_caption(entry: Entry) -> str:
    return next(caption for caption in entry.captions if has_words(caption))


def _vectors(entries: Sequence[Entry], dimension: int, model: str) -> torch.Tensor:
    """Return the image vectors, of shape (N, D)."""
    vectors = torch.from_numpy(np.stack([entry.clip for entry in entries]).astype(np.float32))
    if vectors.shape[1] != dimension:
        msg = f"{model} reads vectors of length {dimension}, the set's have {vectors.shape[1]}"
        raise FeatureMismatch(msg)
    return vectors


@torch.inference_mode()
def _captioner_loss(
    model: ConditionalLM, entries: Sequence[Entry], vectors: torch.Tensor, batch_size: int
) -> dict[str, float]:
    """Return the mean of the loss over every reference with a word for this model."""
    total, count = 0.0, 0
    for rows, targets in _target_batches(model, entries, batch_size):
        starts = torch.full((len(rows), 1), model.vocabulary.start)
        inputs = torch.cat([starts, targets[:, :-1]], dim=1)  # (B, T)
        logits = model.train_forward(vectors[rows], inputs)  # (B, T, V + 2)
        total += float(autoregressive_loss(logits, targets)) * len(rows)
        count += len(rows)
    return {"loss": total / count} if count else {}


def _target_batches(
    model: ConditionalLM, entries: Sequence[Entry], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield positions of entries, and the ids (B, T) of a reference of each."""
    pairs = [
        (row, model.vocabulary.encode(caption, max_length=model.max_length))
        for row, entry in enumerate(entries)
        for caption in entry.captions
        if model.vocabulary.known(caption)
    ]
    for first in range(0, len(pairs), batch_size):
        batch = pairs[first : first + batch_size]
        yield [row for row, _ in batch], torch.tensor([ids for _, ids in batch])


def _unknown_words(model: ConditionalLM, entries: Sequence[Entry]) -> float:
    """Return the share of the references' words without an id; 1 if it sees no words in them."""
    captions = (caption for entry in entries for caption in entry.captions)
    known = [word for caption in captions for word in model.vocabulary.known(caption)]
    return 1 - sum(known) / max(1, len(known))


def _is_empty(caption: Caption) -> bool:
    return not is_caption(caption.text.replace(UNKNOWN, ""))


def _judge(caption: str, entry: Entry) -> bool | None:
    if entry.scene is None:
        return None
    try:
        scene = Scene.from_document(entry.scene)
    except SettingsError:  # a field of that name, but of somebody else's making
        return None
    return is_right(caption, scene)


def _exact_match(captions: Sequence[GeneratedCaption]) -> dict[str, float]:
    verdicts = [caption.is_right for caption in captions if caption.is_right is not None]
    if not verdicts:
        return {}
    return {"exact_match": sum(verdicts) / len(verdicts), "exact_match_n": len(verdicts)}
