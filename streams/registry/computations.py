"""What a version of each kind of model computes, CLIP aside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from streams.contract.declaration import Declaration
from streams.contract.manifest import Bundle
from streams.contract.values import Value
from streams.models import conditional_lm, projection

Made = Sequence[tuple[Value, float | None]]
"""A value for each input, each with its score if it has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """How a version of one kind is loaded, checked, and what it computes from (B, D)."""

    load: Callable[[Bundle], Any]
    check: Callable[[Any, Bundle], None]
    compute: Callable[[Declaration, Any, torch.Tensor], Made]


def compute(declaration: Declaration, module: Any, vectors: np.ndarray) -> Made:
    """Return what a loaded version makes of features of shape (B, D)."""
    return ALGORITHMS[declaration.kind].compute(declaration, module, torch.from_numpy(vectors))


def _project(_: Declaration, module: projection.Projection, vectors: torch.Tensor) -> Made:
    with torch.inference_mode():
        return [(row.numpy(), None) for row in module(vectors)]


def _caption(
    declaration: Declaration, module: conditional_lm.ConditionalLM, vectors: torch.Tensor
) -> Made:
    width = int(declaration.options.get("beam_width", 1))
    return [(made.text, made.score) for made in module.generate(vectors, beam_width=width)]


#: By name of the kind.
ALGORITHMS: Final = {
    "linear": Algorithm(
        load=projection.from_bundle, check=projection.check_golden, compute=_project
    ),
    "gru": Algorithm(
        load=conditional_lm.from_bundle, check=conditional_lm.check_golden, compute=_caption
    ),
}
