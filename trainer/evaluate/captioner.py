"""How good a captioner is: the kind `gru`."""

from collections.abc import Iterator, Sequence

import torch

from streams.contract.documents import is_caption
from streams.contract.kinds import GruOptions, parse_options
from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model
from streams.errors import SettingsError
from streams.models.conditional_lm import Caption, ConditionalLM, autoregressive_loss, from_bundle
from streams.models.vocabulary import UNKNOWN
from trainer.evaluate.caption_metrics import has_words, score_captions
from trainer.evaluate.cases import Case, Measured, cases_of, vectors_in
from trainer.evaluate.evaluation import GeneratedCaption
from trainer.evaluate.measuring import Measuring
from trainer.fit.dataset import Target, captions_of
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import Scene
from trainer.snapshot.validation_set import Entry, ValidationSet


def measure(bundle: Bundle, measuring: Measuring) -> Measured:
    """Measure a version. See `measure_captioner`."""
    declaration = measuring.model.declaration
    return measure_captioner(
        from_bundle(bundle),
        measuring.validation_set,
        measuring.model,
        target=measuring.plugs.target,
        batch_size=measuring.batch_size,
        beam=parse_options(declaration, GruOptions).beam_width,
    )


def measure_captioner(
    captioner: ConditionalLM,
    validation_set: ValidationSet,
    model: Model,
    *,
    target: Target = captions_of,
    batch_size: int = 64,
    beam: int = 1,
) -> Measured:
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
    cases = cases_of(validation_set, model, target, is_usable=has_words)
    vectors = vectors_in(cases, captioner.n_condition, model)
    said = [
        caption
        for batch in torch.split(vectors, batch_size)
        for caption in captioner.generate(batch, beam_width=beam)
    ]
    captions = tuple(
        GeneratedCaption(
            id=case.entry.id,
            text=caption.text,
            score=caption.score,
            references=tuple(case.targets),
            is_right=_judge(caption.text, case.entry),
        )
        for case, caption in zip(cases, said, strict=True)
    )
    metrics = {
        **_loss(captioner, cases, vectors, batch_size),
        **score_captions([c.text for c in captions], [c.references for c in captions]),
        **_exact_match(captions),
        "unknown_words": _unknown_words(captioner, cases),
        "empty_captions": sum(map(_is_empty, said)) / len(said),
        "n": len(captions),
    }
    values = [caption.text for caption in said]
    return Measured(metrics=metrics, cases=cases, values=values, captions=captions)


@torch.inference_mode()
def _loss(
    model: ConditionalLM, cases: Sequence[Case], vectors: torch.Tensor, batch_size: int
) -> dict[str, float]:
    """Return the mean of the loss over every reference with a word for this model."""
    total, count = 0.0, 0
    for rows, targets in _target_batches(model, cases, batch_size):
        starts = torch.full((len(rows), 1), model.vocabulary.start)
        inputs = torch.cat([starts, targets[:, :-1]], dim=1)  # (B, T)
        logits = model.train_forward(vectors[rows], inputs)  # (B, T, V + 2)
        total += float(autoregressive_loss(logits, targets)) * len(rows)
        count += len(rows)
    return {"loss": total / count} if count else {}


def _target_batches(
    model: ConditionalLM, cases: Sequence[Case], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield positions of entries, and the ids (B, T) of a reference of each."""
    pairs = [
        (row, model.vocabulary.encode(caption, max_length=model.max_length))
        for row, case in enumerate(cases)
        for caption in case.targets
        if model.vocabulary.known(caption)
    ]
    for first in range(0, len(pairs), batch_size):
        batch = pairs[first : first + batch_size]
        yield [row for row, _ in batch], torch.tensor([ids for _, ids in batch])


def _unknown_words(model: ConditionalLM, cases: Sequence[Case]) -> float:
    """Return the share of the references' words without an id; 1 if it sees no words in them."""
    captions = (caption for case in cases for caption in case.targets)
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
