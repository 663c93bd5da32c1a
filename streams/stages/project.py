"""The step of `project`: a linear projection of the CLIP embedding."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from streams.contract.default_pipeline import (
    CLIP_PROJECTION,
)
from streams.contract.documents import (
    Output,
)
from streams.models.projection import Projection
from streams.registry.hot_model import HotModel
from streams.stages.apply import apply_model
from streams.stages.outcome import Input, Outcome


class Project:
    """The serving projection over the embeddings of a batch."""

    def __init__(self, model: HotModel[Projection]) -> None:
        """Keep the model; its version is looked up once for each batch."""
        self._model = model

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        loaded = self._model.current()

        def compute(vectors: np.ndarray) -> list[Output]:
            assert loaded is not None  # noqa: S101 - `apply_model` computes with a version only
            with torch.inference_mode():
                projected = loaded.model(torch.from_numpy(vectors)).numpy()  # (B, D) -> (B, P)
            return [Output(value=row, version=loaded.version) for row in projected]

        return apply_model(CLIP_PROJECTION, loaded, events, compute)

    def self_test(self) -> bool:
        """Whether the projection still computes its golden output."""
        return self._model.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version of the projection; empty while there is none."""
        loaded = self._model.current()
        return {CLIP_PROJECTION.name: loaded.version} if loaded else {}
