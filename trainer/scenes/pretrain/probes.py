"""How well a linear map reads each attribute from embeddings: what a captioner can hope for."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch.nn import functional

from trainer.scenes.pretrain.attributes import ATTRIBUTES, attributes
from trainer.scenes.scenes import Scene

Encode = Callable[[Sequence[Scene]], torch.Tensor]
"""From B scenes to their embeddings (B, D)."""

#: Keeps the solution small where embeddings do not vary.
_RIDGE: Final = 0.1


def probe(encode: Encode, seen: Sequence[Scene], fresh: Sequence[Scene]) -> dict[str, float]:
    """Return for each attribute the share of fresh scenes whose value is read rightly.

    Args:
        encode: The encoder.
        seen: Scenes that the linear maps are fitted on, by least squares.
        fresh: Other scenes, that they are tried on.
    """
    known, unknown = _with_one(encode(seen)), _with_one(encode(fresh))  # (N, D + 1), (M, D + 1)
    wanted, truth = attributes(seen), attributes(fresh)
    gram = known.T @ known + _RIDGE * torch.eye(known.shape[1], dtype=known.dtype)
    shares = {}
    for number, (name, size) in enumerate(ATTRIBUTES.items()):
        targets = 2 * functional.one_hot(wanted[:, number], size).to(known.dtype) - 1
        weights = torch.linalg.solve(gram, known.T @ targets)  # (D + 1, values)
        found = (unknown @ weights).argmax(dim=1)
        shares[name] = float((found == truth[:, number]).double().mean())
    return shares


def _with_one(embeddings: torch.Tensor) -> torch.Tensor:
    """Append a constant, for the offset."""
    ones = torch.ones(len(embeddings), 1, dtype=torch.float64)
    return torch.cat([embeddings.double(), ones], dim=1)
