"""The document contract: where outputs live, and what they hold.

    { _id,
      img:      encoded image bytes, or {"url": ...}; a `data:` URL is the bytes it holds
      _outputs: { <key>: { <model>:
                  {format, value, version, features, input, source, at, score?, url?} } } }

`value` is a vector, a text or plain JSON; `version` covers weights and options; `features` holds
the versions of what was read, `input` a fingerprint of each field of the document that the output
depends on, `source` the clusterTime of the change. After a failure `error` stands there instead.
`format` is the number of this layout; it and `source` mean the same in every format.

Pure functions only; nothing here talks to a server. `_outputs` is the one field that this system
writes, one whole sub-object for each model. Who may overwrite it is the matter of `writes.py`.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from urllib.parse import unquote_to_bytes

from bson import json_util
from bson.timestamp import Timestamp

from streams.contract.declaration import is_name
from streams.contract.formats import format_problem
from streams.contract.pipeline import IMAGE, Model, Pipeline
from streams.contract.values import Value, decode_value, encode_value

CAPTIONS: Final = "captions"

#: Layout of what is stored for a model, an output or an error.
FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What one model made of one document.

    Attributes:
        value: A float32 vector of shape (D,), a text, or plain JSON.
        version: Id of the model version that made it; covers weights and options.
        features: Version of every upstream model whose output was read, by name.
        inputs: Fingerprint of every field of the document that it depends on, by name of the field;
            of those that what it was made of depends on, too.
        score: Mean log-probability per token of a text, natural logarithm; None for what has none.
        url: Where the image was fetched; None for an image in the document, and for what was made
            from another output.
    """

    value: Value
    version: str
    features: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
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


def fingerprint(content: bytes) -> str:
    """Return BLAKE2b-128 of an encoded image, or of other content, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def field_fingerprint(value: Any) -> str:
    """Return the fingerprint of a field that is no image: of its canonical extended JSON.

    One that is absent has that of null.
    """
    text = json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS, sort_keys=True)
    return fingerprint(text.encode())


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


def current_inputs(document: Mapping[str, Any], pipeline: Pipeline) -> dict[str, str]:
    """Return the fingerprint of every watched field, by its name, as the document holds it now.

    An image behind a URL counts as the one that was fetched from there; "" when none was, or when
    there is no image: no output is of that.
    """
    return {name: _fingerprint_of(document, name, pipeline) for name in pipeline.watched}


def _fingerprint_of(document: Mapping[str, Any], name: str, pipeline: Pipeline) -> str:
    if name != IMAGE:
        return field_fingerprint(document.get(name))
    if url_of(document) is not None:
        outputs = (output_from_url(document, m) for m in pipeline.models.values() if m.has_image)
        return next((output.inputs[IMAGE] for output in outputs if output is not None), "")
    image = stored_image(document)
    return fingerprint(image) if isinstance(image, bytes) else ""


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


def stored_output(
    document: Mapping[str, Any], model: Model, inputs: Mapping[str, str]
) -> Output | None:
    """Return the output that a document holds, if it was made from these inputs and can be read.

    Args:
        document: The document.
        model: The model that made it.
        inputs: Fingerprint by field; of fields that are not named here any will do.
    """
    stored = lookup(document, model.path)
    if not isinstance(stored, Mapping) or stored.get("format") != FORMAT or "error" in stored:
        return None
    version, made_of = stored.get("version"), _texts_by_name(stored.get("input"))
    features = _texts_by_name(stored.get("features", {}))
    if not isinstance(version, str) or made_of is None or features is None:
        return None
    if set(made_of) != set(model.inputs) or not all(map(is_name, features)):
        return None
    if any(made_of[name] != inputs.get(name, made_of[name]) for name in model.inputs):
        return None
    try:
        value = decode_value(stored["value"])
    except (KeyError, ValueError):
        return None
    score, url = stored.get("score"), stored.get("url")
    return Output(
        value=value,
        version=version,
        features=features,
        inputs=made_of,
        score=score if isinstance(score, float) else None,
        url=url if isinstance(url, str) else None,
    )


def is_stored_for(document: Mapping[str, Any], model: Model, source: Timestamp) -> bool:
    """Whether what stands in the place of an output is of this change, or a newer one."""
    at = lookup(document, f"{model.path}.source")
    return isinstance(at, Timestamp) and at >= source


def unread_format(document: Mapping[str, Any], model: Model) -> str:
    """Return why what a document holds of a model cannot be read, with the remedy.

    That is of its format alone; "" when it is of ours, or when nothing is there.
    """
    stored = lookup(document, model.path)
    if not isinstance(stored, Mapping):
        return ""
    return format_problem(
        model.name,
        stored.get("format"),
        reads=FORMAT,
        otherwise="`captionstream reconcile --all` makes it again",
    )


def _texts_by_name(value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        return None
    return dict(value)


def lineage(model: Model, outputs: Mapping[str, Output]) -> dict[str, str]:
    """Return the version of all that an output is made of, what is read being made of it too."""
    versions: dict[str, str] = {}
    for name in model.reads:
        versions |= {**outputs[name].features, name: outputs[name].version}
    return versions


def output_from_url(document: Mapping[str, Any], model: Model) -> Output | None:
    """Return the output of a model that reads the image, if it was made from the URL of now."""
    url = url_of(document)
    output = stored_output(document, model, {}) if url is not None else None
    return output if output is not None and output.url == url else None


def output_fields(output: Output, *, source: Timestamp) -> dict[str, Any]:
    """Return the sub-object that is stored for an output."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "value": encode_value(output.value),
        "version": output.version,
        "features": dict(output.features),
        "input": dict(output.inputs),
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
        "format": FORMAT,
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
