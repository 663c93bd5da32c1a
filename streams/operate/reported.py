"""Whether every error that stands in a document is reported by a dead letter."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from streams.contract.documents import lookup
from streams.contract.ids import document_key
from streams.contract.pipeline import Model, Pipeline
from streams.mongo.client import Document
from streams.operate.dead_letter_log import DeadLetterLog, Failure

#: Errors that the publisher writes itself: there is no record that could become a dead letter.
WITHOUT_LETTER: Final = frozenset({"InvalidId"})


def errors_of(document: Mapping[str, Any], pipeline: Pipeline) -> dict[Model, str]:
    """Return the type of the stored error of each model that failed."""
    models = pipeline.models.values()
    found = {model: lookup(document, f"{model.path}.error.type") for model in models}
    return {model: str(error) for model, error in found.items() if error is not None}


def unreported(
    document: Document, letters: DeadLetterLog, pipeline: Pipeline, *, kept_hours: float
) -> str:
    """Return which error of a document no dead letter reports; "" when all are reported.

    Args:
        document: The document with its outputs.
        letters: The dead letters.
        pipeline: What is declared.
        kept_hours: How long dead letters are kept; of an older error there may be none.
    """
    oldest = datetime.now(UTC) - timedelta(hours=kept_hours)
    for model, kind in errors_of(document, pipeline).items():
        at = lookup(document, f"{model.path}.at")
        is_kept = isinstance(at, datetime) and at > oldest
        if (
            is_kept
            and kind not in WITHOUT_LETTER
            and not _is_reported(document, model, kind, letters)
        ):
            return f"{model.name} failed, and no dead letter says so"
    return ""


def _is_reported(document: Document, model: Model, kind: str, letters: DeadLetterLog) -> bool:
    """Whether a dead letter is about this error; the sink's names no model."""
    key = document_key(document["_id"]).decode()
    source = lookup(document, f"{model.path}.source")
    return any(letters.reports(Failure(key, n, kind, source)) for n in (model.name, ""))
