"""A linear projection to the unit sphere."""

from typing import Final

import torch
from torch.nn import functional

from streams.contract.kinds import LINEAR
from streams.contract.manifest import UNCHANGED, Bundle, Feature, Golden
from streams.models.bundle import (
    build,
    check_close,
    check_feature,
    golden_input,
    golden_of,
    make_bundle,
    sizes_of,
)

_GOLDEN_COUNT: Final = 2


class Projection(torch.nn.Module):
    """`y = normalize(W x)`.

    Attributes:
        dimension_in: Length D of the vectors that come in.
        dimension_out: Length P of those that come out.
    """

    def __init__(self, dimension_in: int, dimension_out: int) -> None:
        """Make the layer with torch's own initial weights."""
        super().__init__()
        self.dimension_in = dimension_in
        self.dimension_out = dimension_out
        self.linear = torch.nn.Linear(dimension_in, dimension_out, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return unit vectors: (B, D) -> (B, P)."""
        return functional.normalize(self.linear(vectors), dim=-1)


def orthogonal_projection(dimension_in: int, dimension_out: int, *, seed: int) -> Projection:
    """Return a projection with orthonormal rows (columns if it enlarges); usable untrained.

    It keeps angles as well as any fixed projection can. The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    tall = max(dimension_in, dimension_out), min(dimension_in, dimension_out)
    basis, triangle = torch.linalg.qr(torch.randn(tall, generator=generator, dtype=torch.float64))
    basis = basis * torch.sign(torch.diagonal(triangle))  # makes the decomposition unique
    weight = basis if dimension_out > dimension_in else basis.T  # (P, D)
    projection = Projection(dimension_in, dimension_out)
    with torch.no_grad():
        projection.linear.weight.copy_(weight)
    return projection.eval().requires_grad_(False)


def to_bundle(
    projection: Projection,
    *,
    name: str,
    feature: str,
    feature_version: str | None = None,
    metrics: dict[str, float] | None = None,
    snapshot_id: str | None = None,
    note: str = "",
) -> Bundle:
    """Return the bundle of a projection.

    Args:
        projection: The model.
        name: Name of the model that it is a version of.
        feature: Name of the model whose vector it reads.
        feature_version: The version of that one it was fitted on; None if any of its length fits.
        metrics: What was measured.
        snapshot_id: The snapshot it was fitted on; None if it was not fitted.
        note: One line for people.
    """
    golden = Golden(count=_GOLDEN_COUNT)
    vectors = projection(golden_input(golden, projection.dimension_in))
    return make_bundle(
        projection.state_dict(),
        name=name,
        kind=LINEAR,
        config={
            "dimension_in": projection.dimension_in,
            "dimension_out": projection.dimension_out,
        },
        dimension=projection.dimension_out,
        features={feature: Feature(dimension=projection.dimension_in, version=feature_version)},
        preprocessing={feature: UNCHANGED},
        metrics=metrics or {},
        snapshot_id=snapshot_id,
        note=note,
        golden=golden.model_copy(update={"vectors": vectors.tolist()}),
    )


def from_bundle(bundle: Bundle) -> Projection:
    """Return the projection in a bundle, ready to serve.

    Raises:
        InvalidBundle: It is damaged or does not compute its golden output.
    """
    sizes = sizes_of(bundle.manifest, ("dimension_in", "dimension_out"))
    check_feature(bundle.manifest, sizes["dimension_in"])
    projection = build(lambda: Projection(**sizes), bundle)
    check_golden(projection, bundle)
    return projection


def check_golden(projection: Projection, bundle: Bundle) -> None:
    """Compare the golden input's output with the manifest's.

    Raises:
        InvalidBundle: They differ.
    """
    golden = golden_of(bundle.manifest)
    vectors = golden_input(golden, projection.dimension_in)
    with torch.inference_mode():
        found = projection(vectors.to(projection.linear.weight.device))
    expected = [number for row in golden.vectors or [] for number in row]
    check_close(bundle.manifest.name, found.flatten().tolist(), expected)
