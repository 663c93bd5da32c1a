"""What the version of an output covers."""

import pytest

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.versions import output_version, weights_version

LINE = Declaration(
    name="line",
    kind="lines:Line",
    features={"img": "clip", "colour": "colour"},
    fields=("title",),
    options={"words": 5, "tone": "dry"},
)


def test_a_model_that_is_declared_as_usual_has_the_version_of_its_weights():
    for model in DEFAULT.models.values():
        assert output_version(model.declaration, "v") == "v"


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"words": 6, "tone": "dry"}},
        {"options": {}},
        {"fields": ()},
        {"features": {"img": "clip"}},
        {"features": {"img": "clip", "palette": "colour"}},
    ],
)
def test_what_decides_an_output_is_part_of_its_version(change):
    """Fails without `features` for a model that reads less: its outputs would stay."""
    other = LINE.model_copy(update=change)
    versions = {output_version(declaration, "v") for declaration in (LINE, other)}
    assert len(versions) == 2
    assert {weights_version(version) for version in versions} == {"v"}


def test_the_order_of_options_and_what_does_not_decide_are_no_part_of_it():
    same = {
        "options": {"tone": "dry", "words": 5},
        "features": {"colour": "colour", "img": "clip"},
        "after": ("clip",),
    }
    other = LINE.model_copy(update=same)
    assert output_version(other, "v") == output_version(LINE, "v")


def declared(kind, **options):
    return Declaration(name="m", kind=kind, features={"img": "clip"}, options=options)


def test_options_at_their_defaults_are_as_none_at_all():
    """Fails when the options count as they are written."""
    one, three = (output_version(declared("gru", beam_width=n), "v") for n in (1, 3))
    assert one == "v"
    assert weights_version(three) == "v" != three


def test_an_option_that_the_bundle_holds_changes_no_version():
    """Fails when any option counts: what a trained projection made would be made again."""
    assert output_version(declared("linear", dimension=8), "v") == "v"


def test_a_version_that_happens_to_have_a_plus_is_its_own():
    """Fails when it is cut at the first plus: labels of CLIP come from names of files."""
    assert weights_version("ViT-B+x-1") == "ViT-B+x-1"
    assert weights_version(output_version(LINE, "ViT-B+x-1")) == "ViT-B+x-1"


def test_an_option_that_this_release_does_not_know_has_a_version_all_the_same():
    """During a rollout. Fails when it is refused here: who does not run the model needs none."""
    assert output_version(declared("gru", temperature=0.5), "v") != "v"
