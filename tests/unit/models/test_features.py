"""What a version may read, and what it says about that."""

import pytest

from streams.contract.manifest import Bundle, Feature
from streams.errors import InvalidBundle
from streams.models import conditional_lm, projection
from streams.models.conditional_lm import ConditionalLM
from streams.models.kinds.find import load
from streams.models.projection import orthogonal_projection
from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.models.words import Normalization
from tests.bundles import captioner_bundle, projection_bundle
from tests.captioner import tiny_captioner
from tests.pipelines import MODEL_BY_NAME
from tests.tiny import DIMENSION

CLIP = {"clip": Feature(dimension=DIMENSION)}
DEPTH = {"depth": Feature(dimension=DIMENSION)}
OWN = {"conditional_lm": Feature(dimension=DIMENSION)}


def test_manifest_tells_how_inputs_are_prepared():
    read = {"clip": "unchanged"}
    assert tiny_captioner().manifest.preprocessing == {**read, "captions": "unicode"}
    bundle = projection_bundle(orthogonal_projection(4, 2, seed=0))
    assert bundle.manifest.preprocessing == read


@pytest.mark.parametrize("normalization", Normalization)
def test_what_counts_as_a_word_belongs_to_the_version(normalization):
    vocabulary = Vocabulary(("a", UNKNOWN), normalization)
    bundle = captioner_bundle(ConditionalLM(vocabulary, n_condition=4))
    assert conditional_lm.from_bundle(bundle).vocabulary == vocabulary
    unsaid = bundle.manifest.model_copy(update={"preprocessing": {"clip": "unchanged"}})
    with pytest.raises(InvalidBundle, match="not a valid Normalization"):
        conditional_lm.from_bundle(Bundle(manifest=unsaid, weights=bundle.weights))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({}, "reads the models clip, the version was made for none"),
        (DEPTH, "reads the models clip, the version was made for depth"),
        (OWN, "reads the models clip, the version was made for conditional_lm"),
        (CLIP | DEPTH, "reads the models clip, the version was made for clip, depth"),
        ({"clip": Feature(dimension=5)}, f"dimension 5, the config reads {DIMENSION}"),
        ({"clip": Feature()}, f"dimension None, the config reads {DIMENSION}"),
    ],
    ids=["none", "unknown", "later", "more", "another length", "no length"],
)
@pytest.mark.parametrize("name", ["conditional_lm", "clip_projection"])
def test_version_that_reads_anything_else_does_not_load(name, features, reason):
    """Fails without `check_manifest` or `check_feature`."""
    good = (
        tiny_captioner()
        if name == "conditional_lm"
        else projection_bundle(orthogonal_projection(DIMENSION, 2, seed=0))
    )
    manifest = good.manifest.model_copy(update={"features": features})
    declaration = MODEL_BY_NAME[name].declaration
    load(declaration, good)
    with pytest.raises(InvalidBundle, match=reason):
        load(declaration, Bundle(manifest=manifest, weights=good.weights))


@pytest.mark.parametrize("algorithm", [conditional_lm, projection])
def test_algorithm_without_a_model_refuses_two_features(algorithm):
    """As the trainer loads it. Fails when `check_feature` looks at one feature only."""
    good = (
        tiny_captioner()
        if algorithm is conditional_lm
        else projection_bundle(orthogonal_projection(DIMENSION, 2, seed=0))
    )
    manifest = good.manifest.model_copy(update={"features": CLIP | DEPTH})
    with pytest.raises(InvalidBundle, match="vector of one model, the version names clip, depth"):
        algorithm.from_bundle(Bundle(manifest=manifest, weights=good.weights))
