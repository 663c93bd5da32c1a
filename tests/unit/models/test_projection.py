"""The seeded projection and its bundle."""

import pytest
import torch

from streams.contract.manifest import Bundle
from streams.errors import InvalidBundle
from streams.models import projection
from streams.models.bundle import from_directory, to_directory
from streams.models.projection import orthogonal_projection
from tests.bundles import projection_bundle


@pytest.mark.parametrize(("d", "p"), [(16, 4), (4, 16), (8, 8)])
def test_seeded_projection_is_orthonormal_and_repeatable(d, p):
    weight = orthogonal_projection(d, p, seed=1).linear.weight
    assert weight.shape == (p, d)
    product = weight @ weight.T if p <= d else weight.T @ weight
    assert torch.allclose(product, torch.eye(min(d, p)), atol=1e-6)
    assert torch.equal(weight, orthogonal_projection(d, p, seed=1).linear.weight)
    assert not torch.equal(weight, orthogonal_projection(d, p, seed=2).linear.weight)


def test_projected_vectors_have_length_one():
    vectors = orthogonal_projection(16, 4, seed=0)(torch.randn(5, 16))
    assert vectors.shape == (5, 4)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5))


def test_bundle_survives_a_directory(tmp_path):
    bundle = projection_bundle(orthogonal_projection(16, 4, seed=0))
    to_directory(bundle, tmp_path / "v0")
    again = from_directory(tmp_path / "v0")
    assert again.version == bundle.version
    vectors = torch.randn(2, 16)
    expected = projection.from_bundle(bundle)(vectors)
    assert torch.equal(projection.from_bundle(again)(vectors), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["v0"]


@pytest.mark.parametrize(
    "config",
    [{}, {"dimension_in": 10**6, "dimension_out": 10**6}, {"dimension_in": 4, "dimension_out": 16}],
    ids=str,
)
def test_wrong_config_is_refused(config):
    good = projection_bundle(orthogonal_projection(16, 4, seed=0))
    manifest = good.manifest.model_copy(update={"config": config})
    with pytest.raises(InvalidBundle):
        projection.from_bundle(Bundle(manifest=manifest, weights=good.weights))


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_damaged_directory_is_refused(tmp_path, name):
    to_directory(projection_bundle(orthogonal_projection(16, 4, seed=0)), tmp_path / "v0")
    path = tmp_path / "v0" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidBundle):
        from_directory(tmp_path / "v0")
    path.unlink()
    with pytest.raises(InvalidBundle, match=name):
        from_directory(tmp_path / "v0")
