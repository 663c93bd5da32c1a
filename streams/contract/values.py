"""What a model makes, as MongoDB and Kafka hold it: a vector, a text, or plain JSON. Pure."""

import math
import struct
from typing import Any, Final

import numpy as np
from bson.binary import Binary, BinaryVectorDtype

Json = dict[str, Any] | list[Any] | str | int | float | bool | None
Value = np.ndarray | Json
"""A float32 vector of shape (D,), a text, or plain JSON."""

#: MongoDB stores documents of up to 100 levels, some of which are ours.
_MAX_DEPTH: Final = 64
_INT64: Final = 1 << 63


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


def encode_value(value: Value) -> Any:
    """Return a value as it is stored."""
    return encode_vector(value) if isinstance(value, np.ndarray) else value


def decode_value(stored: Any) -> Value:
    """Return the value that stands in a document.

    Raises:
        ValueError: Nothing of ours stands there.
    """
    return decode_vector(stored) if isinstance(stored, Binary) else check_json(stored)


def check_json(value: Any) -> Any:
    """Return a value that is a text or plain JSON, as MongoDB and Kafka can hold it.

    Raises:
        ValueError: It, or something in it, is of another type, NaN or infinite, a whole number of
            more than 64 bits, half a character, or nested too deep.
    """
    _check(value, _MAX_DEPTH)
    return value


def _check(value: Any, levels: int) -> None:
    match value:
        case None | bool():
            return
        case str():
            value.encode()  # half a surrogate pair is a ValueError
        case int() if -_INT64 <= value < _INT64:
            return
        case float() if math.isfinite(value):
            return
        case dict() | list() if levels == 0:
            msg = f"it is nested deeper than {_MAX_DEPTH} levels"
            raise ValueError(msg)
        case list():
            for item in value:
                _check(item, levels - 1)
        case dict():
            for name, item in value.items():
                _check_name(name)
                _check(item, levels - 1)
        case _:
            msg = f"{str(value)[:80]!r} of type {type(value).__name__} is no plain JSON"
            raise ValueError(msg)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or "\0" in name:
        msg = f"{str(name)[:80]!r} cannot be a name in JSON"
        raise ValueError(msg)
    name.encode()
