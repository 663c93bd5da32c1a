"""What a user's class may return, a vector, a text or plain JSON, and how two values compare."""

import json
import math
from typing import Any, Final

import numpy as np
import torch

from streams.contract.values import Json, Value
from streams.errors import ModelFailed
from streams.models.kinds.kind import Made, Tolerance

_Plain = str | Json

#: Most numbers of a vector: 256 KiB, which an event carries on its way as a document does.
_MOST_NUMBERS: Final = 65_536
#: Most bytes of a text or of JSON, encoded.
_MOST_BYTES: Final = 262_144
#: Lists and dicts inside each other; MongoDB takes 100, with what is around them.
_DEEPEST: Final = 32
#: What BSON holds as a whole number.
_LARGEST_INT: Final = 2**63
_REMEDY: Final = (
    "postprocess has to return a 1-D float tensor (a vector), a str, or plain JSON (dict, list,"
    " str, int, float, bool)"
)


def made_of(result: Any, who: str) -> Made:
    """Return what is stored of a result.

    Args:
        result: What a user's `postprocess` has returned for one input.
        who: The class, for messages.

    Raises:
        ModelFailed: It is nothing that can be stored; the message names the remedy.
    """
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu()
        is_float = result.is_floating_point()
        result = result.float().numpy() if is_float else result.numpy()
    if isinstance(result, np.generic):
        result = result.tolist()
    if isinstance(result, np.ndarray):
        if result.ndim == 1 and np.issubdtype(result.dtype, np.floating):
            return Made(value=_vector(result, who))
        if result.ndim > 1:
            msg = f"{who} made an array of shape {result.shape}: {_REMEDY}"
            raise ModelFailed(msg)
        result = result.tolist()
    if result is None:
        msg = f"{who} made nothing (None): {_REMEDY}"
        raise ModelFailed(msg)
    value = _json(result, who, 0)
    size = len(json.dumps(value, ensure_ascii=False).encode())
    if size > _MOST_BYTES:
        msg = f"{who} made {size} bytes, at most {_MOST_BYTES} can be stored: return less"
        raise ModelFailed(msg)
    return Made(value=value)


def as_json(value: Value) -> _Plain:
    """Return a value as it stands in a manifest: a vector as a list of numbers."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _vector(array: np.ndarray, who: str) -> np.ndarray:
    if not 1 <= len(array) <= _MOST_NUMBERS:
        msg = f"{who} made a vector of {len(array)} numbers, expected 1 to {_MOST_NUMBERS}"
        raise ModelFailed(msg)
    # A copy: a row of a batch would keep the whole batch in memory.
    vector = np.array(array, dtype=np.float32)
    if not np.isfinite(vector).all():
        msg = f"{who} made a vector with NaN or infinity: check its weights and its input"
        raise ModelFailed(msg)
    return vector


def _json(value: Any, who: str, depth: int) -> _Plain:
    """Return a value as plain JSON, of types that everybody has."""
    if depth > _DEEPEST:
        msg = f"{who} made JSON that is nested deeper than {_DEEPEST}: return less"
        raise ModelFailed(msg)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_LARGEST_INT <= value < _LARGEST_INT:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and _is_text(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_json(item, who, depth + 1) for item in value]
    if isinstance(value, dict) and all(isinstance(k, str) and _is_text(k) for k in value):
        return {str(key): _json(item, who, depth + 1) for key, item in value.items()}
    shown = repr(value)[:80] if isinstance(value, int | float | str) else type(value).__name__
    msg = f"{who} made {shown}, which is not plain JSON: {_REMEDY}"
    raise ModelFailed(msg)


def _is_text(text: str) -> bool:
    """Whether MongoDB can hold it, also as a name: no half characters, no zero."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def difference(found: Value, expected: Value, tolerance: Tolerance) -> str:
    """Return how a value differs from what is expected; "" if it does not, or too little.

    Vectors and numbers in JSON may differ in their last digits, which depend on processors and on
    how many were computed together; all else is equal or not.
    """
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray):
        if found.shape != expected.shape:
            return f"has shape {found.shape} instead of {expected.shape}"
        largest = float(np.abs(expected).max(initial=0))
        most = float(np.abs(found - expected).max(initial=0))
        # Turned round so that NaN is a difference, too.
        return "" if most <= tolerance.numbers * largest else f"differs by up to {most:.2g}"
    if isinstance(found, np.ndarray) or isinstance(expected, np.ndarray):
        return f"is {type(found).__name__} instead of {type(expected).__name__}"
    if _is_equal(found, expected, tolerance.numbers * _largest(expected)):
        return ""
    return f"is {_shown(found)} instead of {_shown(expected)}"


def _is_equal(found: _Plain, expected: _Plain, most: float) -> bool:
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            _is_equal(found[key], expected[key], most) for key in found
        )
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(
            _is_equal(a, b, most) for a, b in zip(found, expected, strict=True)
        )
    if isinstance(found, float) or isinstance(expected, float):
        return _is_number(found) and _is_number(expected) and abs(found - expected) <= most  # type: ignore[operator]
    return type(found) is type(expected) and found == expected


def _is_number(value: _Plain) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _largest(value: _Plain) -> float:
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0.0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0.0)
    return abs(float(value)) if isinstance(value, float) else 0.0


def _shown(value: _Plain) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]
