"""Batches for a user's class: items are put together, and its output is taken apart again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from streams.errors import ModelFailed


def batches_of(items: Sequence[Any]) -> Iterator[tuple[Any, int]]:
    """Yield batches and their sizes, in order.

    Torch puts items together where it can. Where it can put none of them into a batch of its own,
    all go as one list. Where it can, but not together (tensors of several lengths, say), each goes
    alone: so what a class is given for an item depends on that item alone.
    """
    whole = _collated(items)
    if whole is not None:
        yield whole, len(items)
        return
    alone = [_collated([item]) for item in items]
    if all(batch is None for batch in alone):
        yield list(items), len(items)
        return
    for item, batch in zip(items, alone, strict=True):
        yield [item] if batch is None else batch, 1


def _collated(items: Sequence[Any]) -> Any | None:
    keys = {frozenset(item) for item in items if isinstance(item, Mapping)}
    if len(keys) > 1:  # torch would drop those that the first one lacks
        return None
    try:
        return default_collate(list(items))
    except Exception:  # of a foreign type, which fails as it likes
        return None


def to_device(value: Any, device: str) -> Any:
    """Return a batch or an output with all its tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return _rebuilt(value, lambda part: to_device(part, device))


def split(output: Any, count: int, who: str) -> list[Any]:
    """Return the parts of an output, one for each of `count` inputs.

    A tensor is split along its first dimension, a list into its items; of a dict or a tuple each
    part is split, and every input gets a dict or a tuple.

    Raises:
        ModelFailed: It has no such parts.
    """
    if isinstance(output, torch.Tensor | np.ndarray):
        length = output.shape[0] if output.ndim else 0
    elif isinstance(output, list):
        length = len(output)
    elif isinstance(output, dict | tuple) and output:
        parts = output.values() if isinstance(output, dict) else output
        columns = [split(part, count, who) for part in parts]
        rows = list(zip(*columns, strict=True))
        if isinstance(output, dict):
            return [dict(zip(output, row, strict=True)) for row in rows]
        return rows
    else:
        msg = (
            f"{who}.forward returned {type(output).__name__} for a batch: return a tensor, a list"
            " with one item for each input, or a dict or tuple of these"
        )
        raise ModelFailed(msg)
    if length != count:
        msg = f"{who}.forward returned {length} results for a batch of {count}: return one for each"
        raise ModelFailed(msg)
    return list(output)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with each part changed; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, list):
        return [change(part) for part in value]
    if isinstance(value, tuple):
        parts = [change(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
