"""The document contract: where outputs live, and who may overwrite them.

    { _id,
      img:      encoded image bytes, or {"url": ...}
      _outputs: {
        img:   { clip:            {value, version, features, input, source, at, url?},
                 clip_projection: {...} },
        _base: { conditional_lm:  {value, score, version, features, input, source, at} } } }

Pure functions only; nothing here talks to a server. `_outputs` is the one field that this system
writes, one whole sub-object for each model.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from bson.binary import Binary, BinaryVectorDtype
from bson.timestamp import Timestamp

from streams.ids import document_key

OUTPUTS: Final = "_outputs"
IMAGE: Final = "img"
CAPTIONS: Final = "captions"
FOLD: Final = "_fold"

#: Share of documents (of 256) whose fold is "valid" when none is given.
_VALID_OF_256: Final = 13  # about 5 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as the document sees it.

    Attributes:
        name: Name of the model, the last part of its path.
        key: The field that the model is about; `_base` is the whole document, as in the seed.
        reads: Names of the models whose outputs it reads; empty for one that reads the image.
    """

    name: str
    key: str
    reads: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Dotted path of this model's output in the document."""
        return f"{OUTPUTS}.{self.key}.{self.name}"


CLIP: Final = Model(name="clip", key=IMAGE)
CLIP_PROJECTION: Final = Model(name="clip_projection", key=IMAGE, reads=("clip",))
CONDITIONAL_LM: Final = Model(name="conditional_lm", key="_base", reads=("clip",))

#: Every model that the pipeline runs, upstream first.
MODELS: Final = (CLIP, CLIP_PROJECTION, CONDITIONAL_LM)
MODEL_BY_NAME: Final = {model.name: model for model in MODELS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What one model made of one document.

    Attributes:
        value: A float32 vector of shape (D,), or a text.
        version: Id of the model version that made it.
        features: Version of every upstream model whose output was read, by name.
        score: Mean log-probability per token of a text, natural logarithm; None for vectors.
        url: Where the image was fetched; None for an image in the document, and for what was made
            from another output.
    """

    value: np.ndarray | str
    version: str
    features: Mapping[str, str] = field(default_factory=dict)
    score: float | None = None
    url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputError:
    """Why one model made nothing of one document.

    Attributes:
        type: Class name of the error.
        message: What failed and what to do.
        attempts: How often it was tried.
        is_retryable: Whether the reconciler may try it again.
        version: Id of the model version that failed, "" when it is not known.
    """

    type: str
    message: str
    attempts: int
    is_retryable: bool
    version: str = ""


def fingerprint(image: bytes) -> str:
    """Return BLAKE2b-128 of the encoded image, 32 hexadecimal digits."""
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def url_of(document: Mapping[str, Any]) -> str | None:
    """Return the URL that stands for the image; None when the image stands there itself."""
    image = document.get(IMAGE)
    url = image.get("url") if isinstance(image, Mapping) else None
    return url if isinstance(url, str) else None


def fold_of(document: Mapping[str, Any]) -> str:
    """Return "train" or "valid": the stored fold, else a stable hash of `_id` decides."""
    stored = document.get(FOLD)
    if stored in ("train", "valid"):
        return str(stored)
    first = hashlib.blake2b(document_key(document["_id"]), digest_size=1).digest()[0]
    return "valid" if first < _VALID_OF_256 else "train"


def encode_vector(vector: np.ndarray) -> Binary:
    """Return a float32 vector of shape (D,) as a BSON vector (binary subtype 9)."""
    return Binary.from_vector(
        np.ascontiguousarray(vector, dtype=np.float32), BinaryVectorDtype.FLOAT32
    )


def decode_vector(value: Binary) -> np.ndarray:
    """Return the float32 vector of shape (D,) in a BSON vector.

    Raises:
        ValueError: The value is not a BSON vector of float32.
    """
    if not isinstance(value, Binary):
        msg = f"expected a BSON vector, got {type(value).__name__}"
        raise ValueError(msg)
    decoded = value.as_vector()
    if decoded.dtype is not BinaryVectorDtype.FLOAT32:
        msg = f"expected a BSON vector of float32, got {decoded.dtype}"
        raise ValueError(msg)
    return np.asarray(decoded.data, dtype=np.float32)


def stored_output(
    document: Mapping[str, Any], model: Model, input_fingerprint: str
) -> Output | None:
    """Return the output that a document holds, if it was made from this input and can be read."""
    stored = lookup(document, model.path)
    if not isinstance(stored, Mapping) or stored.get("input") != input_fingerprint:
        return None
    value, version = stored.get("value"), stored.get("version")
    if not isinstance(version, str) or "error" in stored:
        return None
    if isinstance(value, Binary):
        try:
            value = decode_vector(value)
        except ValueError:
            return None
    elif not isinstance(value, str):
        return None
    features, score, url = (stored.get(name) for name in ("features", "score", "url"))
    return Output(
        value=value,
        version=version,
        features=dict(features) if isinstance(features, Mapping) else {},
        score=score if isinstance(score, float) else None,
        url=url if isinstance(url, str) else None,
    )


def output_fields(output: Output, *, source: Timestamp, input_fingerprint: str) -> dict[str, Any]:
    """Return the sub-object that is stored for an output."""
    value = output.value if isinstance(output.value, str) else encode_vector(output.value)
    fields: dict[str, Any] = {
        "value": value,
        "version": output.version,
        "features": dict(output.features),
        "input": input_fingerprint,
        "source": source,
        "at": datetime.now(UTC),
    }
    if output.score is not None:
        fields["score"] = output.score
    if output.url is not None:
        fields["url"] = output.url
    return fields


def error_fields(error: OutputError, *, source: Timestamp) -> dict[str, Any]:
    """Return the sub-object that is stored for a failure."""
    now = datetime.now(UTC)
    return {
        "error": {
            "type": error.type,
            "message": error.message,
            "attempts": error.attempts,
            "retryable": error.is_retryable,
            "at": now,
        },
        "version": error.version,
        "source": source,
        "at": now,
    }


def output_guard(
    model: Model, *, source: Timestamp, version: str, features: Mapping[str, str]
) -> dict[str, Any]:
    """Return the filter under which an output may be written.

    Nothing stored, or an older source stored, or the same source with another version, with other
    upstream versions, or with an error. So a duplicate changes nothing and an older result never
    wins, and yet a new CLIP version replaces what was made from the old one.
    """
    path = model.path
    differs: list[dict[str, Any]] = [
        {f"{path}.version": {"$ne": version}},
        {f"{path}.error": {"$exists": True}},
        *({f"{path}.features.{name}": {"$ne": made}} for name, made in features.items()),
    ]
    return {
        "$or": [
            {f"{path}.source": None},
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
        {f"{path}.source": None},
        {f"{path}.source": {"$lt": source}},
        {f"{path}.source": source, f"{path}.version": version, f"{path}.error.retryable": True},
    ]
    if version:
        allowed.append({f"{path}.source": source, f"{path}.version": {"$ne": version}})
    return {"$or": allowed}


def lookup(document: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path; None when there is nothing."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
