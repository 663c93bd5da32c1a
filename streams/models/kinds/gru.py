"""The kind `gru`: the seed's language model, a sentence from one vector."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from streams.contract.declaration import Declaration
from streams.contract.kinds import GRU, GruOptions, check_declaration, parse_options
from streams.contract.manifest import Bundle
from streams.errors import DocumentError
from streams.models.bundle import check_manifest
from streams.models.conditional_lm import check_golden, from_bundle
from streams.models.kinds.items import vector_of
from streams.models.kinds.kind import Made, Predictor, StoredKind


class Gru(StoredKind):
    """A captioner. It has no default version: untrained, it has no vocabulary."""

    name = GRU
    has_default = False

    def check(self, declaration: Declaration) -> None:
        """See `Kind.check`."""
        check_declaration(declaration)

    def load(self, declaration: Declaration, bundle: Bundle, device: str = "cpu") -> Predictor:
        """See `StoredKind.load`."""
        check_manifest(declaration, bundle.manifest)
        options = parse_options(declaration, GruOptions)
        return _Captioner(bundle, device, beam_width=options.beam_width)

    def default_bundle(self, declaration: Declaration, dimensions: Mapping[str, int]) -> None:
        """See `StoredKind.default_bundle`."""
        self.check(declaration)


class _Captioner:
    """A loaded language model."""

    def __init__(self, bundle: Bundle, device: str, *, beam_width: int) -> None:
        self._bundle = bundle
        self._device = device
        self._beam_width = beam_width
        self._model = from_bundle(bundle).to(device)
        if device != "cpu":  # here it was checked as it was made
            self.check()

    def preprocess(self, item: Any) -> torch.Tensor:
        """See `Predictor.preprocess`."""
        return vector_of(item, self._bundle.manifest.name, self._model.n_condition)

    def predict(self, items: Sequence[torch.Tensor]) -> list[Made | DocumentError]:
        """See `Predictor.predict`."""
        if not items:
            return []
        vectors = torch.stack(list(items)).to(self._device)  # (B, D)
        captions = self._model.generate(vectors, beam_width=self._beam_width)
        return [Made(value=caption.text, score=caption.score) for caption in captions]

    def check(self) -> None:
        """See `Predictor.check`."""
        check_golden(self._model, self._bundle)
