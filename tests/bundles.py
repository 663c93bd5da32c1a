"""Bundles for the models of the default pipeline."""

from typing import Any

from streams.contract.manifest import Bundle
from streams.models import conditional_lm, projection
from streams.models.conditional_lm import ConditionalLM
from streams.models.projection import Projection


def projection_bundle(
    made: Projection, *, clip_version: str | None = None, **manifest: Any
) -> Bundle:
    """Return a version of `clip_projection`, which reads CLIP."""
    return projection.to_bundle(
        made, name="clip_projection", feature="clip", feature_version=clip_version, **manifest
    )


def captioner_bundle(
    model: ConditionalLM, *, clip_version: str | None = None, **manifest: Any
) -> Bundle:
    """Return a version of `conditional_lm`, which reads CLIP."""
    return conditional_lm.to_bundle(
        model, name="conditional_lm", feature="clip", feature_version=clip_version, **manifest
    )
