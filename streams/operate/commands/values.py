"""How commands show a value that a model has made, on one line."""

import json
from typing import Final

import numpy as np

from streams.contract.values import Value
from streams.errors import bounded

#: Most characters of a value; `--json` gives all of it.
_LONGEST: Final = 300


def shown_value(value: Value) -> str:
    """Return a text or JSON as JSON, its middle left out where it is long; of a vector its size."""
    if not isinstance(value, np.ndarray):
        return bounded(json.dumps(value, ensure_ascii=False), _LONGEST)
    first = " ".join(f"{number:.3f}" for number in value[:4])
    return f"{len(value)} x float32, norm {float(np.linalg.norm(value)):.3f}: {first} ..."
