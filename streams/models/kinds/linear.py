"""The kind `linear`: a projection of one vector to the unit sphere."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from streams.contract.declaration import Declaration
from streams.contract.kinds import LINEAR, LinearOptions, check_declaration, parse_options
from streams.contract.manifest import Bundle
from streams.errors import DocumentError, InvalidPipeline
from streams.models.bundle import check_manifest
from streams.models.kinds.items import vector_of
from streams.models.kinds.kind import Made, Predictor, StoredKind
from streams.models.projection import (
    check_golden,
    from_bundle,
    orthogonal_projection,
    to_bundle,
)


class Linear(StoredKind):
    """`y = normalize(W x)`; where none was trained, W is orthogonal and drawn from a seed."""

    name = LINEAR

    def check(self, declaration: Declaration) -> None:
        """See `Kind.check`."""
        check_declaration(declaration)

    def load(self, declaration: Declaration, bundle: Bundle, device: str = "cpu") -> Predictor:
        """See `StoredKind.load`."""
        check_manifest(declaration, bundle.manifest)
        return _Projector(bundle, device)

    def default_bundle(self, declaration: Declaration, dimensions: Mapping[str, int]) -> Bundle:
        """See `StoredKind.default_bundle`."""
        self.check(declaration)
        options = parse_options(declaration, LinearOptions)
        [feature] = declaration.reads
        if feature not in dimensions:
            msg = f"{declaration.name} reads vectors, and {feature} makes none of a known length"
            raise InvalidPipeline(msg)
        made = orthogonal_projection(dimensions[feature], options.dimension, seed=0)
        return to_bundle(made, name=declaration.name, feature=feature)


class _Projector:
    """A loaded projection."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._bundle = bundle
        self._device = device
        self._projection = from_bundle(bundle).to(device)
        if device != "cpu":  # here it was checked as it was made
            self.check()

    def preprocess(self, item: Any) -> torch.Tensor:
        """See `Predictor.preprocess`."""
        return vector_of(item, self._bundle.manifest.name, self._projection.dimension_in)

    def predict(self, items: Sequence[torch.Tensor]) -> list[Made | DocumentError]:
        """See `Predictor.predict`."""
        if not items:
            return []
        with torch.inference_mode():
            vectors = torch.stack(list(items)).to(self._device)  # (B, D)
            projected = self._projection(vectors).cpu().numpy()  # (B, P)
        return [Made(value=row) for row in projected]

    def check(self) -> None:
        """See `Predictor.check`."""
        check_golden(self._projection, self._bundle)
