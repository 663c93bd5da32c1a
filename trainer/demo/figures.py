"""What the demo measures, from the documents themselves."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bson import ObjectId

from trainer.demo.feed import CAPTIONED, Documents, Feed
from trainer.evaluate.caption_metrics import score_captions
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import Scene


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures of `report.json`, under these names.

    Attributes:
        documents: Documents in the collection.
        captioned: Those with a caption.
        failed: Those with an error of any model.
        scored: Scenes that nothing was fitted, stopped or chosen on, and that were scored.
        exact_match: Share of these whose caption is right.
        bleu4: BLEU-4 of these, from 0 to 1.
        cider: CIDEr-D of these, from 0 to 10.
        latency_p50_seconds: Median time from an insert to its visible caption, of documents that
            were inserted while a captioner served.
        latency_p95_seconds: The same, 95th percentile.
        documents_per_second: Rate at which the first wave was embedded and projected.
        model_version: Captioner that serves.
        seconds: How long the demo took.
    """

    documents: int
    captioned: int
    failed: int
    scored: int
    exact_match: float
    bleu4: float
    cider: float
    latency_p50_seconds: float
    latency_p95_seconds: float
    documents_per_second: float
    model_version: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return them by name, rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def read_captions(documents: Documents, ids: Sequence[ObjectId]) -> dict[ObjectId, str]:
    """Return the stored captions by `_id`; documents without one are absent."""
    rows = documents.find({"_id": {"$in": list(ids)}, **CAPTIONED}, {"_outputs._base": 1})
    return {row["_id"]: row["_outputs"]["_base"]["conditional_lm"]["value"] for row in rows}


def latencies(feed: Feed, since: float) -> list[float]:
    """Return seconds from insert to caption of what was inserted since a time."""
    return [
        feed.captioned_at[i] - at
        for i, at in feed.inserted_at.items()
        if at >= since and i in feed.captioned_at
    ]


def score(scenes: Mapping[ObjectId, Scene], captions: Mapping[ObjectId, str]) -> dict[str, float]:
    """Return exact match and caption metrics; a scene without a caption counts as wrong."""
    said = [captions.get(i, "") for i in scenes]
    metrics = score_captions(said, [scene.captions() for scene in scenes.values()])
    right = [is_right(text, scene) for text, scene in zip(said, scenes.values(), strict=True)]
    return metrics | {"exact_match": sum(right) / len(right)}


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated; NaN has no place in a report, so some are needed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
