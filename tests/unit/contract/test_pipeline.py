"""A declared pipeline compiles to one value, or is refused with the names."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.contract.declaration import Declaration, ModelState, parse_declarations
from streams.contract.pipeline import CHANGES, compile_pipeline, is_dead_letter_topic
from streams.errors import InvalidPipeline


def model(name, *reads, fields=(), after=(), key="_base", **more):
    features = {f"from_{upstream}": upstream for upstream in reads}
    fields = fields or (() if reads else ("img",))
    return Declaration(
        name=name, kind="linear", key=key, features=features, fields=fields, after=after, **more
    )


CLIP = Declaration(name="clip", kind="clip", key="img")
PROJECTION = Declaration(name="projection", kind="linear", key="img", features={"img": "clip"})
CAPTION = Declaration(name="caption", kind="gru", features={"img": "clip"}, after=("projection",))


def test_the_chain_of_the_notebook():
    pipeline = compile_pipeline([CAPTION, PROJECTION, CLIP])
    assert list(pipeline.models) == ["clip", "projection", "caption"]
    assert [each.carrier for each in pipeline.models.values()] == [None, "clip", "projection"]
    caption = pipeline.models["caption"]
    assert pipeline.passes_by("projection")
    assert not pipeline.passes_by("clip")
    assert caption.way == ("clip", "projection")
    assert caption.ancestors == ("clip",)  # it follows the projection, and does not read it
    assert pipeline.models["clip"].descendants == ("projection", "caption")
    assert pipeline.models["projection"].descendants == ()
    assert caption.path == "_outputs._base.caption"
    assert pipeline.watched == ("img",)
    assert pipeline.added == ()


def test_fan_out_runs_the_root_once():
    pipeline = compile_pipeline([CLIP, model("a", "clip"), model("b", "clip"), model("c", "clip")])
    assert [each.name for each in pipeline.consumers(CHANGES)] == ["clip"]
    assert [each.name for each in pipeline.consumers("clip")] == ["a", "b", "c"]


def test_a_join_of_two_roots_lets_one_follow_the_other():
    pipeline = compile_pipeline([CLIP, model("colour"), model("text", "clip", "colour")])
    assert pipeline.added == (("colour", "clip"),)
    assert pipeline.models["colour"].carrier == "clip"
    assert pipeline.models["text"].way == ("clip", "colour")
    assert pipeline.models["colour"].ancestors == ()  # an error of clip does not stop it


def test_a_field_read_beside_features_touches_only_who_reads_it():
    pipeline = compile_pipeline([CLIP, PROJECTION, model("text", "clip", fields=("title",))])
    assert pipeline.watched == ("img", "title")
    assert pipeline.touched_by(["title"]) == ("text",)
    assert pipeline.touched_by(["img"]) == ("clip", "projection", "text")


def test_an_inactive_model_takes_no_part():
    resting = PROJECTION.model_copy(update={"state": ModelState.INACTIVE})
    pipeline = compile_pipeline([CLIP, resting, CAPTION])
    assert list(pipeline.models) == ["clip", "caption"]
    assert pipeline.models["caption"].carrier == "clip"
    assert len(pipeline.declarations) == 3


@pytest.mark.parametrize(
    ("declarations", "says"),
    [
        ([CLIP, CLIP], "two models are called 'clip'"),
        ([PROJECTION], "projection names 'clip', which is no model of this pipeline"),
        ([model("a", "b"), model("b", "a")], "circle: "),
        ([model("a", "a")], "circle: a -> a"),
        ([model("a", after=("b",)), model("b", "a")], "circle: "),
        (
            [CLIP.model_copy(update={"state": ModelState.INACTIVE}), PROJECTION],
            "projection reads 'clip', which is inactive",
        ),
        ([], "no model is active: "),
        ([CLIP.model_copy(update={"state": ModelState.INACTIVE})], "no model is active: "),
    ],
)
def test_what_is_no_pipeline_is_refused_with_the_names(declarations, says):
    with pytest.raises(InvalidPipeline) as refused:
        compile_pipeline(declarations)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"name": "a", "kind": "gru"}, "model 'a': a reads nothing"),
        ({"name": "sink", "kind": "gru", "key": "img"}, "'sink' is the name of a topic or of a"),
        ({"name": "changes", "kind": "gru", "key": "img"}, "'changes' is the name of a topic"),
        ({"name": "clip_dlq", "kind": "gru", "key": "img"}, "'clip_dlq' is the name of a topic"),
        ({"name": "A b", "kind": "gru", "key": "img"}, "model 'A b': name: 'A b' is no name"),
        ({"name": "a", "kind": "__main__:Net", "key": "img"}, "cannot be imported where"),
        ({"name": "a", "kind": "what ever", "key": "img"}, "'what ever' is no kind"),
        ({"name": "a", "kind": "gru", "key": "_outputs"}, "'_outputs' is no field"),
        ({"name": "a", "kind": "gru", "key": "a.b"}, "'a.b' is no field"),
        ({"name": "a", "kind": "gru", "key": "img", "state": "on"}, "model 'a': state: "),
        ({"name": "a", "kind": "gru", "key": "img", "feature": {}}, "model 'a': feature: "),
        ({"kind": "gru", "key": "img"}, "model 1: name: "),
        *(
            ({"name": "a", "kind": "gru", "key": "img", "options": {"x": odd}}, "more than JSON")
            for odd in (math.nan, (1,), {1: 2}, b"", datetime.now(UTC))
        ),
        (
            {"name": "a", "kind": "gru", "features": {"img": "clip"}, "fields": ["img"]},
            "reads 'img' both as it is and as a feature",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_name_and_field(row, says):
    with pytest.raises(InvalidPipeline) as refused:
        parse_declarations([row])
    assert says in str(refused.value)
    assert len(str(refused.value)) < 300


def chain(length):
    """Models of which each reads the one before: three fields of the state index each."""
    return [model("m0"), *(model(f"m{i}", f"m{i - 1}") for i in range(1, length))]


def test_the_state_index_takes_a_chain_of_ten_models_and_no_more():
    """Fails without the limit: MongoDB refuses an index of more than 32 fields, `_id` included."""
    fits = compile_pipeline([*chain(10), model("root")])
    assert len(fits.state_paths) == len(set(fits.state_paths)) == 31
    with pytest.raises(InvalidPipeline) as refused:
        compile_pipeline(chain(11))
    assert "11 active models need 32 fields in the state index" in str(refused.value)
    assert "MongoDB allows 31: deactivate some" in str(refused.value)


def test_an_inactive_model_takes_no_place_in_the_state_index():
    last = model("last", "m9", state=ModelState.INACTIVE)
    assert len(compile_pipeline([*chain(10), last]).state_paths) == 29


def test_topics_are_the_changes_and_one_for_each_active_model_and_their_dead_letters():
    resting = PROJECTION.model_copy(update={"state": ModelState.INACTIVE})
    pipeline = compile_pipeline([CAPTION, resting, CLIP])
    assert pipeline.topics == ("changes", "clip", "caption")
    letters = ("changes.dlq", "clip.dlq", "caption.dlq")
    assert pipeline.all_topics == (*pipeline.topics, *letters)
    assert [*filter(is_dead_letter_topic, pipeline.all_topics)] == [*letters]


@st.composite
def pipelines(draw):
    """Any acyclic pipeline of up to nine models, declared in any order."""
    names = [f"m{i}" for i in range(draw(st.integers(1, 9)))]

    def some(before):
        return draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []

    rows = [
        model(name, *some(names[:i]), after=tuple(some(names[:i]))) for i, name in enumerate(names)
    ]
    assume(2 * len(rows) + sum(len(row.reads) for row in rows) <= 31)
    return draw(st.permutations(rows))


@given(pipelines())
def test_every_event_carries_what_its_consumer_reads(declarations):
    """For any pipeline: each model runs once, behind everything that it reads or follows."""
    pipeline = compile_pipeline(declarations)
    order = list(pipeline.models)
    assert sorted(order) == sorted(d.name for d in declarations)
    for name, each in pipeline.models.items():
        assert {*each.declaration.reads, *each.declaration.after} <= set(each.way)
        assert all(order.index(before) < order.index(name) for before in each.way)
        assert each.way == (
            () if each.carrier is None else (*pipeline.models[each.carrier].way, each.carrier)
        )
        assert set(each.ancestors) <= set(each.way)
        for upstream in each.ancestors:
            assert name in pipeline.models[upstream].descendants


@given(pipelines())
def test_nothing_is_ordered_that_need_not_be(declarations):
    """Without a join no model follows another that it did not name."""
    pipeline = compile_pipeline(declarations)
    if all(len({*d.reads, *d.after}) <= 1 for d in declarations):
        assert pipeline.added == ()
