"""What is known of kinds without torch."""

import pytest

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.kinds import check_declaration
from streams.errors import InvalidPipeline


def test_default_pipeline_passes():
    for declaration in DEFAULT.declarations:
        check_declaration(declaration)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "gru2"}, "m: there is no kind 'gru2'; choose clip, linear, gru, or name"),
        (
            {"kind": "clip", "key": "title"},
            "clip reads the image, so its key is 'img'.*reads title",
        ),
        ({"kind": "clip", "features": {"img": "depth"}, "key": "img"}, "clip reads the image"),
        ({"kind": "clip", "options": {"model": "RN50"}}, "'model': Extra inputs.*of clip: none"),
        ({"kind": "linear"}, "linear reads the vector of one model.*reads img"),
        ({"kind": "linear", "features": {"img": "a", "x": "b"}}, "it reads a, b"),
        ({"kind": "gru", "features": {"img": "a"}, "fields": ["title"]}, "it reads a, title"),
        (
            {"kind": "gru", "features": {"img": "a"}, "options": {"beam": 3}},
            "m: option 'beam': Extra inputs .*options of gru: beam_width",
        ),
        (
            {"kind": "gru", "features": {"img": "a"}, "options": {"beam_width": 65}},
            "'beam_width': Input should be less than or equal to 64",
        ),
        (
            {"kind": "linear", "features": {"img": "a"}, "options": {"dimension": "512"}},
            "'dimension': Input should be a valid integer",
        ),
    ],
)
def test_wrong_declaration_is_refused_with_the_names(fields, reason):
    with pytest.raises(InvalidPipeline, match=reason):
        check_declaration(Declaration(name="m", **({"key": "img"} | fields)))


def test_class_is_not_looked_at():
    check_declaration(Declaration(name="m", kind="no.such:Class", key="img", options={"a": 1}))
