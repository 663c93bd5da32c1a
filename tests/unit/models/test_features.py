"""What a version may read, one output that is made before it, and what it says about that."""

import pytest

from streams.contract.manifest import Bundle, Feature
from streams.errors import InvalidBundle
from streams.models import conditional_lm, projection
from streams.models.conditional_lm import ConditionalLM
from streams.models.projection import orthogonal_projection
from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.models.words import Normalization
from tests.captioner import tiny_captioner
from tests.tiny import DIMENSION

CLIP = {"clip": Feature(dimension=DIMENSION)}
DEPTH = {"depth": Feature(dimension=DIMENSION)}
OWN = {"conditional_lm": Feature(dimension=DIMENSION)}


def test_manifest_tells_how_inputs_are_prepared():
    read = {"clip": "unchanged"}
    assert tiny_captioner().manifest.preprocessing == {**read, "captions": "unicode"}
    bundle = projection.to_bundle(orthogonal_projection(4, 2, seed=0))
    assert bundle.manifest.preprocessing == read


@pytest.mark.parametrize("normalization", Normalization)
def test_what_counts_as_a_word_belongs_to_the_version(normalization):
    vocabulary = Vocabulary(("a", UNKNOWN), normalization)
    bundle = conditional_lm.to_bundle(ConditionalLM(vocabulary, n_condition=4), clip_version=None)
    assert conditional_lm.from_bundle(bundle).vocabulary == vocabulary
    unsaid = bundle.manifest.model_copy(update={"preprocessing": {"clip": "unchanged"}})
    with pytest.raises(InvalidBundle, match="not a valid Normalization"):
        conditional_lm.from_bundle(Bundle(manifest=unsaid, weights=bundle.weights))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({}, "reads 0 features"),
        (DEPTH, "reads 'depth', which no stage makes before it"),
        (OWN, "reads 'conditional_lm', which no stage makes before it"),
        (CLIP | DEPTH, "reads 'depth'"),
        ({"clip": Feature(dimension=5)}, f"dimension 5, the config reads {DIMENSION}"),
    ],
    ids=["none", "unknown", "later", "more", "another length"],
)
@pytest.mark.parametrize("model", [conditional_lm, projection])
def test_version_that_reads_anything_else_does_not_load(model, features, reason):
    """Anywhere: trainer and `apply` load as the stages do. Fails without `check_features`."""
    good = (
        tiny_captioner()
        if model is conditional_lm
        else projection.to_bundle(orthogonal_projection(DIMENSION, 2, seed=0))
    )
    manifest = good.manifest.model_copy(update={"features": features})
    model.from_bundle(good)
    with pytest.raises(InvalidBundle, match=reason):
        model.from_bundle(Bundle(manifest=manifest, weights=good.weights))
