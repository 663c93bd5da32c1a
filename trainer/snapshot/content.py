"""What one document says to the models: outputs that are current, and fields. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from bson.binary import Binary

from streams.contract.documents import CAPTIONS, lookup, usable_captions
from streams.contract.folds import FOLD
from streams.contract.pipeline import Model
from streams.contract.values import decode_vector
from trainer.snapshot.columns import (
    Value,
    Values,
    Wanted,
    feature_column,
    field_column,
    first_missing,
    served_by,
    to_json,
)

#: What says of an output whether it is current, beside its value.
_MARKS: Final = ("version", "features", "error")

Reason = Literal[
    "held_out",
    "unknown_fold",
    "without_captions",
    "without_field",
    "without_output",
    "other_version",
    "failed",
    "unreadable",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a document says to the models.

    Attributes:
        captions: What people wrote.
        values: What is there, by column.
        missing: Why the other columns are empty.
        passed_over: Values in `captions` that are no captions.
    """

    captions: tuple[str, ...]
    values: Values
    missing: Mapping[str, Reason]
    passed_over: int

    def unusable(self, wanted: Wanted) -> Reason | None:
        """Return why no model can use it; None when one can."""
        if not served_by(wanted, self.values):
            return self.missing[first_missing(wanted, self.values)]
        has_lesson = self.captions or any(column in self.values for column in wanted.lessons)
        return None if has_lesson else "without_captions"


def projection_of(wanted: Wanted, *, with_values: bool = True) -> dict[str, int]:
    """Return what is read of a document beside its `_id`; without values, of outputs only marks."""
    outputs = [model.path for model in wanted.features.values()]
    if not with_values:
        outputs = [
            f"{path}.{part}" for path in outputs for part in ("version", "features", "error")
        ]
    errors = [f"{m.path}.error" for n, m in wanted.upstreams.items() if n not in wanted.features]
    return dict.fromkeys([CAPTIONS, FOLD, *outputs, *errors, *wanted.fields], 1)


def query_of(wanted: Wanted) -> dict[str, Any]:
    """Return a query that finds every document of use to a model, and as few others as it can."""
    needs = [
        {
            f"{wanted.features[name].path}.version": wanted.versions[name]
            for name in wanted.features
            if feature_column(name) in columns
        }
        for columns in wanted.models.values()
    ]
    return {"$or": needs} if all(needs) else {}


def content_of(document: Mapping[str, Any], wanted: Wanted, *, with_values: bool = True) -> Content:
    """Return what a document says to the models; without values, only which there are."""
    values: dict[str, Value] = {}
    missing: dict[str, Reason] = {}
    for name, model in wanted.features.items():
        reason = _problem(document, model, wanted)
        value = readable(lookup(document, model.path)) if with_values else ""
        if reason is None and value is not None:
            values[feature_column(name)] = value
        else:
            missing[feature_column(name)] = reason or "unreadable"
    for name in wanted.fields:
        if document.get(name) is None:
            missing[field_column(name)] = "without_field"
        else:
            values[field_column(name)] = to_json(document[name])
    captions, passed_over = usable_captions(document.get(CAPTIONS))
    return Content(captions=captions, values=values, missing=missing, passed_over=passed_over)


def _problem(document: Mapping[str, Any], model: Model, wanted: Wanted) -> Reason | None:
    """Return why there is no output of the versions that serve; None when there is one.

    Images are not read: of one that was replaced a moment ago, the output is still that of before.
    """
    read = [wanted.upstreams[name] for name in (*model.ancestors, model.name)]
    if any(lookup(document, f"{upstream.path}.error") for upstream in read):
        return "failed"
    stored = lookup(document, model.path)
    if not isinstance(stored, Mapping):
        return "without_output"
    made_from = stored.get("features")
    others = made_from.items() if isinstance(made_from, Mapping) else ()
    made_by = {model.name: stored.get("version"), **dict(others)}
    is_current = all(wanted.versions.get(n, version) == version for n, version in made_by.items())
    return None if is_current else "other_version"


def readable(stored: object) -> Value | None:
    """Return the value of a stored output: a finite vector (D,), or JSON; None when it is none."""
    value = stored.get("value") if isinstance(stored, Mapping) else None
    if not isinstance(value, Binary):
        return None if value is None else to_json(value)
    try:
        vector = decode_vector(value)
    except ValueError:
        return None
    return vector if vector.size > 0 and bool(np.isfinite(vector).all()) else None
