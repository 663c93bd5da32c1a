"""Who may overwrite an output: the filters under which outputs and errors are written. Pure."""

from typing import Any

from bson.timestamp import Timestamp

from streams.documents import Model, Output


def output_guard(model: Model, *, source: Timestamp, output: Output) -> dict[str, Any]:
    """Return the filter under which an output may be written.

    Nothing of ours stored, or an older source, or the same source with another version, with other
    upstream versions, with another beam width, or with an error. So a duplicate changes nothing and
    an older result never wins, and yet a new CLIP version replaces what was made from the old one.
    """
    path = model.path
    differs: list[dict[str, Any]] = [
        {f"{path}.version": {"$ne": output.version}},
        {f"{path}.beam_width": {"$ne": None if output.beam_width == 1 else output.beam_width}},
        {f"{path}.error": {"$exists": True}},
        *({f"{path}.features.{name}": {"$ne": made}} for name, made in output.features.items()),
    ]
    return {
        "$or": [
            {f"{path}.source": {"$not": {"$type": "timestamp"}}},
            {f"{path}.source": {"$lt": source}},
            {f"{path}.source": source, "$or": differs},
        ]
    }


def error_guard(model: Model, *, source: Timestamp, version: str) -> dict[str, Any]:
    """Return the filter under which an error may be written.

    As `output_guard`, but an error never replaces a result of the same source and version, nor,
    when the version that failed is not known (""), any result of the same source. It replaces an
    error of that version which could pass: so the document says when it was tried last, and
    whether it can still pass.
    """
    path = model.path
    allowed: list[dict[str, Any]] = [
        {f"{path}.source": {"$not": {"$type": "timestamp"}}},
        {f"{path}.source": {"$lt": source}},
        {f"{path}.source": source, f"{path}.version": version, f"{path}.error.retryable": True},
    ]
    if version:
        allowed.append({f"{path}.source": source, f"{path}.version": {"$ne": version}})
    return {"$or": allowed}
