"""The document contract: where outputs live, and what they hold.

    { _id,
      img:      encoded image bytes, or {"url": ...}; a `data:` URL is the bytes it holds
      _outputs: {
        img:   { clip:            {value, version, features, input, source, at, url?},
                 clip_projection: {...} },
        _base: { conditional_lm:  {value, score, version, features, input, source, at,
                                  beam_width?} } } }

Pure functions only; nothing here talks to a server. `_outputs` is the one field that this system
writes, one whole sub-object for each model. Who may overwrite it is the matter of `writes.py`.
"""

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from urllib.parse import unquote_to_bytes

import numpy as np
from bson.binary import Binary, BinaryVectorDtype
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import CLIP, MODEL_BY_NAME
from streams.contract.pipeline import Model

IMAGE: Final = "img"
CAPTIONS: Final = "captions"


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
        beam_width: Sentences kept while a text was decoded; 1 for a greedy one, and for vectors.
    """

    value: np.ndarray | str
    version: str
    features: Mapping[str, str] = field(default_factory=dict)
    score: float | None = None
    url: str | None = None
    beam_width: int = 1


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
    return url if isinstance(url, str) and not _is_data(url) else None


def stored_image(document: Mapping[str, Any]) -> Any:
    """Return the encoded image that a document holds itself, or what stands there instead of one.

    Of a `data:` URL that is what it holds; of one that cannot be read, its text.
    """
    image = document.get(IMAGE)
    url = image.get("url") if isinstance(image, Mapping) else None
    if not isinstance(url, str) or not _is_data(url):
        return image
    head, _, text = url.partition(",")
    data = unquote_to_bytes(text)
    if not head.rstrip().lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(data + b"==")
    except ValueError:
        return data


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def is_caption(value: object) -> TypeGuard[str]:
    """Whether something can be learned from a value: a text with a letter of any script."""
    if not isinstance(value, str) or not any(map(str.isalpha, value)):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, which neither BSON nor Parquet can hold
        return False
    return True


def usable_captions(value: object) -> tuple[tuple[str, ...], int]:
    """Return the usable ones of what stands in `captions`, and how many others there were.

    Nothing but a list of texts is read: null, NaN, a number, a list or a text without a letter in
    it is counted, and so is anything else than a list. A field that is absent or null is empty.
    """
    if value is None:
        return (), 0
    if not isinstance(value, list | tuple):
        return (), 1
    usable = tuple(item for item in value if is_caption(item))
    return usable, len(value) - len(usable)


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
    try:
        decoded = value.as_vector()
    except struct.error as exc:
        msg = f"a BSON vector of {len(value)} bytes is none"
        raise ValueError(msg) from exc
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
    beam_width = stored.get("beam_width")
    features = features if isinstance(features, Mapping) else {}
    if not all(name in MODEL_BY_NAME and isinstance(made, str) for name, made in features.items()):
        return None
    return Output(
        value=value,
        version=version,
        features=dict(features),
        score=score if isinstance(score, float) else None,
        url=url if isinstance(url, str) else None,
        beam_width=beam_width if isinstance(beam_width, int) and beam_width > 0 else 1,
    )


def embedding_from_url(document: Mapping[str, Any]) -> Output | None:
    """Return the stored embedding, if it was made from the URL that the document names now."""
    url, digest = url_of(document), lookup(document, f"{CLIP.path}.input")
    output = stored_output(document, CLIP, digest) if isinstance(digest, str) else None
    return output if output is not None and url is not None and output.url == url else None


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
    if output.beam_width != 1:
        fields["beam_width"] = output.beam_width
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


def lookup(document: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path; None when there is nothing."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
