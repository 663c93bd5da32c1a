"""The step of `caption`: a sentence from the image's features."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from streams.contract.default_pipeline import (
    CONDITIONAL_LM,
)
from streams.contract.documents import (
    Output,
)
from streams.models.conditional_lm import ConditionalLM
from streams.registry.hot_model import HotModel
from streams.stages.apply import apply_model
from streams.stages.outcome import Input, Outcome


class Caption:
    """The serving language model over the features of a batch."""

    def __init__(self, model: HotModel[ConditionalLM], *, beam_width: int) -> None:
        """Keep the model; its version is looked up once for each batch."""
        self._model = model
        self._beam_width = beam_width

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        loaded, width = self._model.current(), self._beam_width

        def compute(vectors: np.ndarray) -> list[Output]:
            assert loaded is not None  # noqa: S101 - `apply_model` computes with a version only
            return [
                Output(
                    value=caption.text,
                    version=loaded.version,
                    score=caption.score,
                    beam_width=width,
                )
                for caption in loaded.model.generate(torch.from_numpy(vectors), beam_width=width)
            ]

        return apply_model(CONDITIONAL_LM, loaded, events, compute, beam_width=width)

    def self_test(self) -> bool:
        """Whether the model still computes its golden output."""
        return self._model.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version of the language model; empty while there is none."""
        loaded = self._model.current()
        return {CONDITIONAL_LM.name: loaded.version} if loaded else {}
