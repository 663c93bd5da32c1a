"""What a version of each model other than CLIP computes, outside the stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch

from streams.contract.default_pipeline import (
    CLIP_PROJECTION,
    CONDITIONAL_LM,
)
from streams.contract.manifest import Bundle
from streams.models import conditional_lm, projection

Compute = Callable[[np.ndarray], Sequence[tuple[np.ndarray | str, float | None]]]
"""From features (B, D) to B values, each with its score if it is a text."""


def computation(name: str, bundle: Bundle, beam_width: int) -> Compute:
    """Return what a version computes.

    Args:
        name: Name of a model other than CLIP.
        bundle: The version.
        beam_width: Of a language model; 1 decodes greedily.

    Raises:
        InvalidBundle: The version does not hold.
    """
    return LOADERS[name](bundle, beam_width)


def _projection(bundle: Bundle, _: int) -> Compute:
    project = projection.from_bundle(bundle)
    return lambda vectors: [(row.numpy(), None) for row in project(torch.from_numpy(vectors))]


def _captioner(bundle: Bundle, beam_width: int) -> Compute:
    captioner = conditional_lm.from_bundle(bundle)
    return lambda vectors: [
        (caption.text, caption.score)
        for caption in captioner.generate(torch.from_numpy(vectors), beam_width=beam_width)
    ]


#: By name of the model.
LOADERS: Final[Mapping[str, Callable[[Bundle, int], Compute]]] = {
    CLIP_PROJECTION.name: _projection,
    CONDITIONAL_LM.name: _captioner,
}
