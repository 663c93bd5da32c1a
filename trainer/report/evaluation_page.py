"""The page of one evaluation: figures, curves, and what the model says about pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer.evaluate.evaluation import Evaluation, GeneratedCaption, is_count
from trainer.report.gallery import Picture, gallery
from trainer.report.page import Section, Tile, page, table, tiles
from trainer.report.training import training_section

#: Four or five cards stand in a row.
SAMPLES: Final = 20
_MISTAKES: Final = 20
#: With fewer images a figure says little about the next one.
_FEW: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class _Metric:
    label: str
    meaning: str


_METRICS: Final = {
    "exact_match": _Metric(
        label="Exact match",
        meaning="Share of captions that name both objects and their relation and say nothing false",
    ),
    "bleu1": _Metric(label="BLEU-1", meaning="Words that some reference has too; 0 to 1"),
    "bleu2": _Metric(label="BLEU-2", meaning="The same for up to two words in a row"),
    "bleu3": _Metric(label="BLEU-3", meaning="The same for up to three words in a row"),
    "bleu4": _Metric(label="BLEU-4", meaning="The same for up to four words in a row"),
    "rouge_l": _Metric(
        label="ROUGE-L", meaning="Longest common subsequence with a reference; 0 to 1"
    ),
    "cider": _Metric(
        label="CIDEr-D", meaning="Agreement with all references, rare words count more; 0 to 10"
    ),
    "loss": _Metric(label="Loss", meaning="Nats per word of the references; less is better"),
    "unknown_words": _Metric(
        label="Unknown words", meaning="Share of the references' words that it does not know"
    ),
    "empty_captions": _Metric(
        label="Empty captions", meaning="Share of its captions without a word that it knows"
    ),
    "recall1": _Metric(label="Recall at 1", meaning="A caption's own image is the nearest"),
    "recall5": _Metric(label="Recall at 5", meaning="It is among the five nearest"),
    "recall10": _Metric(label="Recall at 10", meaning="It is among the ten nearest"),
    "median_rank": _Metric(label="Median rank", meaning="Of a caption's own image; 1 is best"),
}
_TILES: Final = ("exact_match", "bleu4", "cider", "rouge_l", "recall1", "recall10", "median_rank")


def evaluation_page(
    evaluation: Evaluation,
    *,
    version: str,
    images: Mapping[str, object],
    history: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page.

    Args:
        evaluation: What was measured.
        version: Version of the model.
        images: Value of `img` by id of the document; missing ones are tolerated.
        history: One object for each epoch of the fit, if it is known.
    """
    sections = [
        Section(
            title="In short",
            body=tiles(metric_tiles(evaluation.metrics)),
            note=caution(evaluation),
        ),
        *([training_section(history)] if history else []),
        *_galleries(evaluation, images),
        Section(
            title="All metrics",
            body=table(metric_rows(evaluation.metrics)),
            note="n is the number of images. Words are letters without case, so that figures"
            " compare with each other rather than with published ones.",
        ),
    ]
    told = "".join(f", {name} {value}" for name, value in evaluation.options.items())
    return page(
        f"{evaluation.model} {version}",
        sections,
        subtitle=f"Measured on validation set {evaluation.validation_set!r}"
        f" ({evaluation.digest[:16]}), {evaluation.metrics['n']:,.0f} documents{told}.",
    )


def metric_tiles(metrics: Mapping[str, float]) -> list[Tile]:
    """Return the figures that people ask for first."""
    return [
        Tile(
            label=_METRICS[name].label,
            value=f"{metrics[name]:.1%}" if name == "exact_match" else f"{metrics[name]:.3f}",
            detail=f"n = {_count(metrics, name):,}",
        )
        for name in _TILES
        if name in metrics
    ]


def metric_rows(metrics: Mapping[str, float]) -> list[dict[str, object]]:
    """Return a row for each metric, with n and what it means; unknown ones come last."""
    known = [name for name in _METRICS if name in metrics]
    others = [name for name in metrics if name not in _METRICS and not is_count(name)]
    return [
        {
            "metric": _METRICS[name].label if name in _METRICS else name,
            "value": metrics[name],
            "n": _count(metrics, name),
            "meaning": _METRICS[name].meaning if name in _METRICS else "",
        }
        for name in (*known, *others)
    ]


def pictures_of(
    captions: Sequence[GeneratedCaption], images: Mapping[str, object]
) -> list[Picture]:
    """Return the cards of captions, with the pictures that are there."""
    return [
        Picture(
            image=images.get(caption.id),
            caption=caption.text,
            references=caption.references,
            is_right=caption.is_right,
            detail=f"{caption.id}, score {caption.score:.2f}",
        )
        for caption in captions
    ]


def shown(evaluation: Evaluation) -> list[GeneratedCaption]:
    """Return the captions of which the page shows pictures: samples, and mistakes after them."""
    return [*_samples(evaluation), *_mistakes(evaluation)]


def _galleries(evaluation: Evaluation, images: Mapping[str, object]) -> list[Section]:
    samples, mistakes = _samples(evaluation), _mistakes(evaluation)
    sections = []
    if samples:
        sections.append(
            Section(
                title="What it says",
                note=f"The first {len(samples)} images of the set, which is a random sample:"
                " nothing was picked by hand. Below each caption stand its references.",
                body=gallery(pictures_of(samples, images)),
            )
        )
    if mistakes:
        sections.append(
            Section(
                title="Where it is wrong",
                note=f"The first {len(mistakes)} wrong captions among the other images.",
                body=gallery(pictures_of(mistakes, images)),
            )
        )
    return sections


def _samples(evaluation: Evaluation) -> Sequence[GeneratedCaption]:
    return evaluation.captions[:SAMPLES]


def _mistakes(evaluation: Evaluation) -> list[GeneratedCaption]:
    others = evaluation.captions[SAMPLES:]
    return [caption for caption in others if caption.is_right is False][:_MISTAKES]


def caution(evaluation: Evaluation) -> str:
    """Return a warning if too few images were scored, else nothing."""
    count = int(evaluation.metrics["n"])
    if count >= _FEW:
        return ""
    return f"Only {count} images were scored: too few to separate good from lucky."


def _count(metrics: Mapping[str, float], name: str) -> int:
    return int(metrics["exact_match_n"] if name == "exact_match" else metrics["n"])
