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
