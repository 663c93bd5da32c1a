"""The record of an evaluation: metrics, and what a captioner said. Knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.fit.rules import Rules


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedCaption:
    """What a captioner said about one entry.

    Attributes:
        id: `_id` of the document, canonical extended JSON.
        text: The caption.
        score: Mean natural log-probability of its tokens.
        references: What people wrote.
        is_right: Whether it is right about the scene; None when the entry is no scene.
    """

    id: str
    text: str
    score: float
    references: tuple[str, ...]
    is_right: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes:
        model: Name of the model.
        validation_set: Name of the set.
        digest: Digest of its content.
        options: The options of its declaration that it was asked with.
        metrics: Values by name, rounded to six digits, with `n`, the documents that were scored.
        rules: How the metrics of two versions compare.
        captions: One for each of these documents, in the order of the set; empty for a model that
            makes no captions.
    """

    model: str
    validation_set: str
    digest: str
    options: Mapping[str, Any]
    metrics: dict[str, float]
    rules: Rules
    captions: tuple[GeneratedCaption, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all but the captions."""
        return {
            "model": self.model,
            "validation_set": self.validation_set,
            "digest": self.digest,
            "options": dict(self.options),
            "metrics": self.metrics,
        }


def is_count(metric: str) -> bool:
    """Whether a figure is a count beside the metrics; no version is better for it."""
    return metric == "n" or metric.endswith("_n")
