"""The kinds of this project: two models of each side by side, options, and what they refuse."""

import numpy as np
import pytest
import torch
from PIL import Image

from streams.contract.declaration import Declaration
from streams.errors import FeatureMismatch, InvalidBundle, InvalidPipeline, ModelNotFound
from streams.models import conditional_lm
from streams.models.conditional_lm import ConditionalLM
from streams.models.kinds.find import kind_of, load
from streams.models.kinds.items import item_of
from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.settings import ClipSettings
from tests.tiny import write_tiny_clip


def linear(name, upstream="clip", **options):
    return Declaration(
        name=name, kind="linear", key="img", features={"img": upstream}, options=options
    )


def gru(name, upstream="clip", **options):
    return Declaration(name=name, kind="gru", features={"img": upstream}, options=options)


def captioner(name, upstream="clip"):
    torch.manual_seed(1)
    model = ConditionalLM(
        Vocabulary(("a", "cat", "on", UNKNOWN)), n_condition=4, n_hidden=8, max_length=5
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return conditional_lm.to_bundle(model.eval(), name=name, feature=upstream)


def predicted(declaration, bundle, *vectors):
    predictor = load(declaration, bundle)
    predictor.check()
    items = [item_of(declaration, {"img": vector}) for vector in vectors]
    return predictor.predict([predictor.preprocess(item) for item in items])


def test_two_projections_of_different_upstreams_and_sizes():
    small, large = linear("small", dimension=2), linear("large", "depth", dimension=8)
    kind = kind_of("linear")
    first = kind.default_bundle(small, {"clip": 4})
    second = kind.default_bundle(large, {"clip": 4, "depth": 6})
    assert (first.manifest.name, dict(first.manifest.features)["clip"].dimension) == ("small", 4)
    assert (first.manifest.dimension, second.manifest.dimension) == (2, 8)
    [made] = predicted(small, first, np.ones(4))
    assert made.value.shape == (2,)
    [made] = predicted(large, second, np.ones(6))
    assert made.value.shape == (8,)
    with pytest.raises(InvalidBundle, match="small is of name 'small', the version is of 'large'"):
        load(small, second)


def test_two_captioners_of_different_upstreams():
    for name, upstream in (("short", "clip"), ("long", "small")):
        [made] = predicted(gru(name, upstream), captioner(name, upstream), np.ones(4))
        assert isinstance(made.value, str)
        assert made.score < 0


def test_beam_width_is_an_option():
    """Fails when the width does not reach `generate`: scores of wider beams are no worse."""
    vectors = np.random.default_rng(0).standard_normal((20, 4))
    bundle = captioner("lm")
    greedy = predicted(gru("lm"), bundle, *vectors)
    wide = predicted(gru("lm", beam_width=8), bundle, *vectors)
    assert sum(made.score for made in wide) > sum(made.score for made in greedy)


def test_captioner_has_no_default_version():
    assert kind_of("gru").default_bundle(gru("lm"), {"clip": 4}) is None


def test_default_projection_needs_vectors_of_known_length():
    with pytest.raises(InvalidPipeline, match="p reads vectors, and texts makes none"):
        kind_of("linear").default_bundle(linear("p", "texts"), {"clip": 4})


@pytest.mark.parametrize("value", [np.ones(5), "a text", None, {"a": 1}])
def test_what_is_no_vector_of_the_right_length_is_the_documents_error(value):
    bundle = kind_of("linear").default_bundle(linear("p", dimension=2), {"clip": 4})
    with pytest.raises(FeatureMismatch, match="p reads"):
        predicted(linear("p"), bundle, value)


def test_clip_is_announced_by_its_settings(tmp_path):
    settings = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random", device="cpu")
    clip = kind_of("clip")
    predictor = clip.open(settings)
    predictor.check()
    image = Image.new("RGB", (80, 60), (0, 200, 0))
    [made] = predictor.predict([predictor.preprocess(image)])
    assert made.value.shape == (predictor.details["dimension"],)
    assert predictor.predict([]) == []
    assert predictor.difference(predictor.details) == ""
    other = clip.open(settings.model_copy(update={"seed": 1}))
    assert "computes other embeddings" in other.difference(predictor.details)
    assert other.version != predictor.version


def test_bundle_is_nothing_for_an_announced_kind():
    declaration = Declaration(name="clip", kind="clip", key="img")
    with pytest.raises(ModelNotFound, match="weights live elsewhere"):
        load(declaration, captioner("clip"))
