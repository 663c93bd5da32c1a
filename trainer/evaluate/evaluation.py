"""The record of an evaluation: metrics, and what a captioner said. Knows no model."""

from dataclasses import dataclass
from typing import Any, Final

#: Metrics of which less is better; of all others more is.
LOWER_IS_BETTER: Final = frozenset({"loss", "median_rank", "unknown_words", "empty_captions"})
#: Counts beside the metrics; no version is better for them.
COUNTS: Final = frozenset({"n", "exact_match_n"})


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
        beam: Width of the search; 1 is greedy.
        metrics: Values by name, rounded to six digits, with `n`, the images that were scored.
        captions: One for each of these images, in the order of the set; empty for a projection.
    """

    model: str
    validation_set: str
    digest: str
    beam: int
    metrics: dict[str, float]
    captions: tuple[GeneratedCaption, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all but the captions."""
        return {
            "model": self.model,
            "validation_set": self.validation_set,
            "digest": self.digest,
            "beam": self.beam,
            "metrics": self.metrics,
        }
