"""Whether the errors that documents carry are true, and whether dead letters tell of them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import torch

from streams.contract.documents import CLIP, MODELS, Model, lookup
from streams.contract.ids import document_key
from streams.errors import InvalidImage
from streams.operate.dead_letter_log import DeadLetterLog, Failure

#: Errors that the publisher writes itself: there is no record that could become a dead letter.
_WITHOUT_LETTER: Final = frozenset({"InvalidId"})
#: What may keep an image without an embedding although it can be decoded.
_NOT_THE_IMAGE: Final = frozenset(
    {"ModelFailed", "ModelHung", "ModelCrashed", "WriteRejected", *_WITHOUT_LETTER}
)


def errors_of(document: Mapping[str, Any]) -> dict[Model, str]:
    """Return the type of the stored error of each model that failed."""
    found = {model: lookup(document, f"{model.path}.error.type") for model in MODELS}
    return {model: str(error) for model, error in found.items() if error is not None}


def problem_of_errors(
    document: Mapping[str, Any],
    image: torch.Tensor | InvalidImage | None,
    letters: DeadLetterLog,
    *,
    kept_hours: float,
) -> str:
    """Return what is wrong with the errors that a document carries, or does not carry.

    Args:
        document: The document with its outputs.
        image: What came of decoding its image; None when nobody tried.
        letters: The dead letters.
        kept_hours: How long dead letters are kept; of an older error there may be none.
    """
    errors = errors_of(document)
    error = errors.get(CLIP)
    if isinstance(image, InvalidImage) and error not in (InvalidImage.__name__, *_WITHOUT_LETTER):
        return f"it has {error or 'outputs'}, and yet: {image}"
    if isinstance(image, torch.Tensor) and error is not None and error not in _NOT_THE_IMAGE:
        return f"it carries {error}, and yet its image can be decoded"
    oldest = datetime.now(UTC) - timedelta(hours=kept_hours)
    for model, kind in errors.items():
        at = lookup(document, f"{model.path}.at")
        is_kept = isinstance(at, datetime) and at > oldest
        if is_kept and kind not in _WITHOUT_LETTER and not _is_told(document, model, kind, letters):
            return f"{model.name} failed, and no dead letter says so"
    return ""


def _is_told(document: Mapping[str, Any], model: Model, kind: str, letters: DeadLetterLog) -> bool:
    """Whether a dead letter is about this error; the sink's names no model."""
    key = document_key(document["_id"]).decode()
    source = lookup(document, f"{model.path}.source")
    return any(letters.tells_of(Failure(key, n, kind, source)) for n in (model.name, ""))
