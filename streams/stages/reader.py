"""The step of a model that reads outputs of others: its version over the events' features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streams.contract.documents import Output
from streams.contract.pipeline import Model
from streams.contract.versions import output_version
from streams.models.kinds.items import item_of
from streams.registry.hot_model import HotModel
from streams.stages.apply import apply_model
from streams.stages.outcome import Input, Outcome


class Reader:
    """The serving version of one model; looked up once for each batch."""

    def __init__(self, model: Model, hot: HotModel[Any]) -> None:
        """Keep which model it is, and its version in memory."""
        self._model = model
        self._hot = hot

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        loaded = self._hot.current()

        def outputs(vectors: np.ndarray) -> list[Output]:
            assert loaded is not None  # noqa: S101 - `apply_model` computes with a version only
            declaration, predictor = self._model.declaration, loaded.model
            rows = (dict.fromkeys(declaration.features, row) for row in vectors)
            made = predictor.predict(
                [predictor.preprocess(item_of(declaration, row)) for row in rows]
            )
            return [Output(value=m.value, version=loaded.version, score=m.score) for m in made]

        return apply_model(self._model, loaded, events, outputs)

    def self_test(self) -> bool:
        """Whether the model still computes its golden output."""
        return self._hot.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version of the outputs that are made; empty while there is none."""
        loaded = self._hot.current()
        if loaded is None:
            return {}
        return {self._model.name: output_version(self._model.declaration, loaded.version)}
