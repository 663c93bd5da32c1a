"""What a model is given: a value, or a dict of values by field, as in the notebook."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from streams.contract.declaration import Declaration
from streams.errors import FeatureMismatch


def item_of(declaration: Declaration, values: Mapping[str, Any]) -> Any:
    """Return the item that `preprocess` of a model gets.

    The value alone where the model reads one field and that is its key; else a dict of all that it
    reads by field, also where that is one (`key="_base"`). A vector becomes a float32 tensor (D,).

    Args:
        declaration: The model.
        values: What stands for each field that it reads: of a feature the upstream model's output,
            of the image the decoded one, of any other field its value, None where there is none.
    """
    fields = dict.fromkeys((*declaration.features, *declaration.raw_fields))
    item = {field: _tensor_or_value(values.get(field)) for field in fields}
    return item[declaration.key] if list(item) == [declaration.key] else item


def _tensor_or_value(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # A copy: what is stored and sent must not change when a model works in place.
    return torch.from_numpy(np.array(value, dtype=np.float32))


def vector_of(item: Any, name: str, dimension: int) -> torch.Tensor:
    """Return the one vector in an item, of shape (D,).

    Args:
        item: As `item_of` makes it.
        name: Name of the model that reads it.
        dimension: Its length D.

    Raises:
        FeatureMismatch: It holds none of this length.
    """
    if isinstance(item, dict) and len(item) == 1:
        [item] = item.values()
    if not isinstance(item, torch.Tensor):
        msg = f"{name} reads a vector of length {dimension}, and was given {type(item).__name__}"
        raise FeatureMismatch(msg)
    if tuple(item.shape) != (dimension,):
        msg = f"{name} reads vectors of shape ({dimension},), and was given {tuple(item.shape)}"
        raise FeatureMismatch(msg)
    return item
