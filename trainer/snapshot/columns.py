"""What is read of each document: follows from the pipeline and from what is learned. Pure.

A snapshot has a column for each output that some active model reads, and one for each field that
one reads as it stands. Images are in no snapshot; captions always are.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from bson import json_util

from streams.contract.documents import CAPTIONS
from streams.contract.pipeline import IMAGE, OUTPUTS, Model, Pipeline
from streams.errors import ModelNotFound

#: A column holds vectors of equal length, or values as JSON.
Value = np.ndarray | str
Values = Mapping[str, Value]
"""What one document says, by the name of the column; what it lacks is absent."""

_OUTPUT: Final = f"{OUTPUTS}."
_JSON: Final = json_util.RELAXED_JSON_OPTIONS.with_options(tz_aware=True)


def feature_column(model: str) -> str:
    """Return the name of the column that holds the outputs of a model."""
    return f"feature/{model}"


def field_column(field: str) -> str:
    """Return the name of the column that holds a field of the document."""
    return f"field/{field}"


def to_json(value: Any) -> str:
    """Return a value of a document as JSON; `from_json` gives back an equal one."""
    return json_util.dumps(value, json_options=_JSON, sort_keys=True)


def from_json(text: str) -> Any:
    """Return the value that `to_json` was given."""
    return json_util.loads(text, json_options=_JSON)


def inputs_of(model: Model) -> dict[str, str]:
    """Return the column of each field that a model sees; an image has none."""
    declared = model.declaration
    raw = {n: _raw_column(n) for n in declared.raw_fields if n != IMAGE}
    return {**{f: feature_column(up) for f, up in declared.features.items()}, **raw}


def _raw_column(field: str) -> str:
    return CAPTIONS if field == CAPTIONS else field_column(field)


def can_be_learned(model: Model) -> bool:
    """Whether all that a model reads is in a snapshot: images are not."""
    return IMAGE not in model.declaration.raw_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is read of each document, and which documents are worth it.

    Attributes:
        features: The models whose outputs are read, by name.
        upstreams: These models and all that they read, directly or through others.
        versions: The version that serves, by name of the model.
        fields: Fields that are read as they stand, beside `captions`.
        lessons: Names of columns, and `captions`: a document that has none of these teaches
            nothing.
        models: Columns that a model reads, by its name; a document serves the models all of whose
            columns it has.
    """

    features: Mapping[str, Model]
    upstreams: Mapping[str, Model]
    versions: Mapping[str, str]
    fields: tuple[str, ...]
    lessons: tuple[str, ...]
    models: Mapping[str, tuple[str, ...]]

    @property
    def feature_versions(self) -> dict[str, str]:
        """The version of each output that is read."""
        return {name: self.versions[name] for name in self.features}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reads:
    """Whose inputs are read, and what is learned beside captions.

    Attributes:
        pipeline: The models.
        learned: Fields, and `_outputs.<name>` for the outputs of a model.
    """

    pipeline: Pipeline
    learned: tuple[str, ...] = ()


def wanted_of(reads: Reads, versions: Mapping[str, str]) -> Wanted:
    """Return what to read for all models of a pipeline together.

    Args:
        reads: The models, and what is learned.
        versions: The version that serves for each model that has one.

    Raises:
        ModelNotFound: No model has all that it reads, or there is none whose outputs are learned.
    """
    active, learned = reads.pipeline.models, reads.learned
    outputs = [name.removeprefix(_OUTPUT) for name in learned if name.startswith(_OUTPUT)]
    _check_known(outputs, active)
    needed = dict.fromkeys([n for model in active.values() for n in model.reads] + outputs)
    features = {n: active[n] for n in active if n in needed and _serves(active[n], versions)}
    targets = [n for n in learned if n != CAPTIONS and not n.startswith(_OUTPUT)]
    raw = [n for m in active.values() for n in m.declaration.raw_fields]
    fields = [n for n in (*raw, *targets) if n not in (IMAGE, CAPTIONS)]
    models = {
        name: tuple(column for column in inputs_of(model).values() if column != CAPTIONS)
        for name, model in active.items()
        if can_be_learned(model) and all(read in features for read in model.reads)
    }
    if not models:
        waiting = ", ".join(n for n in needed if n not in features) or "none is read"
        msg = (
            "nothing can be learned: no version serves of the models whose outputs are read"
            f" ({waiting}); a stage announces or takes up one when it starts"
        )
        raise ModelNotFound(msg)
    above = {n for model in features.values() for n in (model.name, *model.ancestors)}
    return Wanted(
        features=features,
        upstreams={name: active[name] for name in active if name in above},
        versions=versions,
        fields=tuple(dict.fromkeys(fields)),
        lessons=(CAPTIONS, *map(field_column, targets), *map(feature_column, outputs)),
        models=models,
    )


def _check_known(outputs: Iterable[str], active: Mapping[str, Model]) -> None:
    unknown = [name for name in outputs if name not in active]
    if unknown:
        known = ", ".join(active)
        msg = f"{_OUTPUT}{unknown[0][:80]} is learned, and no active model is called so ({known})"
        raise ModelNotFound(msg)


def _serves(model: Model, versions: Mapping[str, str]) -> bool:
    return all(name in versions for name in (model.name, *model.ancestors))


def served_by(wanted: Wanted, values: Values) -> tuple[str, ...]:
    """Return the models all of whose columns are there."""
    return tuple(n for n, columns in wanted.models.items() if all(c in values for c in columns))


def first_missing(wanted: Wanted, values: Values) -> str:
    """Return the first column that some model lacks."""
    return next(c for columns in wanted.models.values() for c in columns if c not in values)


def hash_texts(texts: Iterable[str], digest: "hashlib._Hash") -> None:
    """Add texts; their lengths stand before them, so that no two rows read the same."""
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big") + data)


def hash_values(values: Values, digest: "hashlib._Hash") -> None:
    """Add what one document says, by column."""
    for column, value in sorted(values.items()):
        if isinstance(value, str):
            hash_texts((column, value), digest)
        else:
            hash_texts((column, str(value.size)), digest)
            digest.update(value.astype("<f4").tobytes())
