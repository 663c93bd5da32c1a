"""Outputs as they travel in events: plain data, for JSON or msgpack. Wrong data is refused."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from streams.contract.declaration import is_field, is_name
from streams.contract.documents import Output
from streams.contract.values import check_json
from streams.errors import InvalidEvent


def pack(output: Output) -> dict[str, Any]:
    """Return an output as plain data; of a vector, the bytes of its numbers.

    Raises:
        ValueError: Its value cannot travel.
    """
    packed: dict[str, Any] = {
        "version": output.version,
        "features": dict(output.features),
        "inputs": dict(output.inputs),
    }
    if isinstance(output.value, np.ndarray):
        packed["float32"] = np.ascontiguousarray(output.value, dtype="<f4").tobytes()
    else:
        packed["value"] = check_json(output.value)
    if output.score is not None:
        packed["score"] = output.score
    if output.url is not None:
        packed["url"] = output.url
    return packed


def unpack(packed: Mapping[str, Any]) -> Output:
    """Return the output that `pack` gave.

    Raises:
        InvalidEvent: A name or a type is wrong.
        Exception: Something else is: it may be anything.
    """
    if "float32" in packed:
        value = np.frombuffer(packed["float32"], dtype="<f4")
    else:
        value = check_json(packed["value"])
    return Output(
        value=value,
        version=_checked(packed["version"], str),
        features={name_of(k): _checked(v, str) for k, v in packed["features"].items()},
        inputs={_field(k): _checked(v, str) for k, v in packed["inputs"].items()},
        score=_optional(packed.get("score"), float),
        url=_optional(packed.get("url"), str),
    )


@lru_cache(1024)  # a few names, again and again
def name_of(value: Any) -> str:
    """Return the name of a model, known here or not; another text may be an operator of MongoDB."""
    if not isinstance(value, str) or not is_name(value):
        msg = f"record names a model {value!r}"
        raise InvalidEvent(msg)
    return value


@lru_cache(1024)
def _field(value: Any) -> str:
    if not isinstance(value, str) or not is_field(value):
        msg = f"record names a field {value!r}"
        raise InvalidEvent(msg)
    return value


def _optional(value: Any, kind: type) -> Any:
    return None if value is None else _checked(value, kind)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        msg = f"expected {kind.__name__}, got {type(value).__name__}"
        raise InvalidEvent(msg)
    if isinstance(value, str):
        value.encode()  # half a surrogate pair can be written in JSON, but not be stored
    return value
