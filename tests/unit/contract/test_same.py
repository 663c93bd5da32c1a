"""Whether a process has the same to do in another pipeline."""

import pytest

from streams.contract.declaration import ModelState
from streams.contract.pipeline import compile_pipeline
from tests.unit.contract.test_pipeline import CAPTION, CLIP, PROJECTION, model


def but(declaration, **changes):
    """A declaration with changes."""
    return declaration.model_copy(update=changes)


LINE = model("line", "clip", key="other")
BEFORE = (CLIP, PROJECTION, CAPTION)
ALL = {"clip", "projection", "caption"}


@pytest.mark.parametrize(
    ("after", "others"),
    [
        ((CAPTION, CLIP, PROJECTION), set()),
        ((*BEFORE, model("alone", state=ModelState.INACTIVE)), set()),
        ((*BEFORE, model("alone", fields=("title",))), set()),
        ((*BEFORE, LINE), {"clip"}),
        ((CLIP, PROJECTION), ALL),
        ((CLIP, but(PROJECTION, state=ModelState.INACTIVE), CAPTION), ALL),
        ((CLIP, PROJECTION, but(CAPTION, options={"beam_width": 5})), ALL),
        ((CLIP, PROJECTION, but(CAPTION, fields=("title",))), ALL),
        ((but(CLIP, options={"a": 1}), PROJECTION, CAPTION), {"clip"}),
        ((but(CLIP, fields=("title",)), PROJECTION, CAPTION), ALL),
        ((CLIP, PROJECTION, but(CAPTION, after=())), ALL),
    ],
    ids=[
        "other order",
        "one that is inactive",
        "one that touches nothing",
        "a reader of the root",
        "the last one goes",
        "one on the way rests",
        "options of the last",
        "a field of the last",
        "options of the root",
        "a field of the root",
        "beside, not behind",
    ],
)
def test_a_process_does_the_same_unless_its_part_of_the_pipeline_is_another(after, others):
    """Both ways. Fails without any part of `_duties`."""
    one, two = compile_pipeline(BEFORE), compile_pipeline(after)
    found = {name for name in one.models if not one.does_the_same(two, name)}
    assert found == others
    for name in {*one.models, *two.models}:
        assert one.does_the_same(two, name) is two.does_the_same(one, name)


def test_a_model_whose_upstream_reads_less_has_something_else_to_do():
    """Fails without `ancestors` in `_duties`: neither its way nor its inputs are others."""
    text = model("text", "colour")
    one = compile_pipeline([CLIP, model("colour", "clip", fields=("img",)), text])
    two = compile_pipeline([CLIP, model("colour", fields=("img",), after=("clip",)), text])
    assert one.models["text"].way == two.models["text"].way
    assert not one.does_the_same(two, "text")


def test_nobody_does_the_same_where_a_model_is_not_active():
    pipeline = compile_pipeline(BEFORE)
    assert not pipeline.does_the_same(pipeline, "stranger")
    assert all(pipeline.does_the_same(compile_pipeline(BEFORE), name) for name in pipeline.models)
