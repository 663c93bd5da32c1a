"""What is said before a pipeline replaces another one."""

import pytest

from streams.contract.declaration import Declaration, ModelState
from streams.contract.pipeline import compile_pipeline
from streams.contract.plan import Action, StoredOutputs, plan
from streams.contract.states import Recaption, Serving
from streams.contract.versions import output_version

CLIP = Declaration(name="clip", kind="clip", key="img")
PROJECTION = Declaration(name="projection", kind="linear", key="img", features={"img": "clip"})
CAPTION = Declaration(name="caption", kind="gru", features={"img": "clip"}, after=("projection",))
COLOUR = Declaration(name="colour", kind="colours:Colour", key="img")
LINE = Declaration(name="line", kind="lines:Line", features={"img": "clip", "colour": "colour"})
CHAIN = (CLIP, PROJECTION, CAPTION)
VERSIONS = {"clip": "c1", "projection": "p1", "caption": "g1", "colour": "k1", "line": "l1"}


def changed(declaration, **fields):
    return declaration.model_copy(update=fields)


def output(version, **features):
    return {"version": version, "features": features}


ERROR = {"version": "c1", "error": {"retryable": False}}
IMG = {"clip": output("c1"), "projection": output("p1", clip="c1")}
FINISHED = {"_outputs": {"img": IMG, "_base": {"caption": output("g1", clip="c1")}}}
STORED = [
    StoredOutputs(document=FINISHED, count=90),
    StoredOutputs(document={}, count=6),
    StoredOutputs(document={"_outputs": {"img": {"clip": ERROR}}}, count=4),
]


def planned(before, after, *, versions=VERSIONS, stored=STORED, rates=None, recaption=None):
    after = compile_pipeline(after)
    names = {
        name: output_version(model.declaration, versions[name])
        for name, model in after.models.items()
        if name in versions
    }
    serving = Serving(pipeline=after, versions=names, recaption=recaption or {})
    return plan(compile_pipeline(before), serving, stored, rates or {})


def _without(name):
    return {model: version for model, version in VERSIONS.items() if model != name}


def counts(found):
    """(missing, stale, reused, failed) by name."""
    return {m.name: (m.missing, m.stale, m.reused, m.failed) for m in found.models}


def actions(found):
    return {m.name: m.action.value for m in found.models}


AS_IT_IS = (6, 0, 90, 4)
AGAIN = (6, 90, 0, 4)


def test_the_same_pipeline_changes_nothing():
    found = planned(CHAIN, CHAIN)
    assert found.is_same
    assert set(actions(found).values()) == {"go on"}
    assert counts(found) == dict.fromkeys(("clip", "projection", "caption"), AS_IT_IS)
    assert found.new_topics + found.unused_topics + found.new_groups + found.unused_groups == ()


def test_a_new_model_runs_for_every_document_and_the_others_go_on():
    found = planned(CHAIN, (*CHAIN, COLOUR), versions=_without("colour"))
    assert not found.is_same
    assert actions(found)["colour"] == "start"
    assert counts(found)["colour"] == (100, 0, 0, 0)
    assert not found.models[-1].has_version
    assert (found.new_topics, found.new_groups) == (("colour", "colour.dlq"), ("colour",))
    assert {n: a for n, a in actions(found).items() if n != "colour"} == {
        "clip": "go on",
        "projection": "go on",
        "caption": "go on",
    }


def test_a_model_behind_an_error_gets_nothing_for_that_document():
    found = planned(CHAIN, (*CHAIN, changed(LINE, features={"img": "clip"})))
    assert counts(found)["line"] == (96, 0, 0, 4)


@pytest.mark.parametrize("change", [{"options": {"beam_width": 5}}, {"kind": "beams:Beam"}])
def test_what_decides_the_outputs_makes_them_again(change):
    found = planned(CHAIN, (CLIP, PROJECTION, changed(CAPTION, **change)))
    assert counts(found) == {"clip": AS_IT_IS, "projection": AS_IT_IS, "caption": AGAIN}
    assert actions(found)["caption"] == "restart"
    assert next(iter(change)) in found.models[-1].reason


def test_so_are_those_of_all_that_reads_it():
    eye = changed(CLIP, kind="eyes:Eye")
    wide = changed(eye, options={"size": 1})
    found = planned((eye, PROJECTION, CAPTION), (wide, PROJECTION, CAPTION))
    assert counts(found) == {"clip": (6, 94, 0, 0), "projection": (10, 90, 0, 0)} | {
        "caption": (10, 90, 0, 0)
    }


def test_what_the_last_promotion_said_holds_for_outputs_of_other_versions():
    kept = {"caption": Recaption.NONE}
    again = (CLIP, PROJECTION, changed(CAPTION, options={"beam_width": 5}))
    assert counts(planned(CHAIN, again, recaption=kept))["caption"] == AS_IT_IS


def test_a_model_that_reads_another_one_runs_again():
    text = changed(LINE, features={"img": "projection"})
    stored = {"_outputs": {"img": IMG, "_base": {"line": output("l1", clip="c1")}}}
    found = planned(
        (CLIP, PROJECTION, changed(LINE, features={"img": "clip"})),
        (CLIP, PROJECTION, text),
        stored=[StoredOutputs(document=stored, count=3)],
    )
    assert counts(found)["line"] == (0, 3, 0, 0)


def test_a_new_ordering_edge_is_said_and_recomputes_nothing():
    both = {"_outputs": {"img": {"clip": output("c1"), "colour": output("k1")}}}
    stored = [StoredOutputs(document=both, count=7)]
    found = planned((CLIP, COLOUR), (CLIP, COLOUR, LINE), stored=stored)
    assert found.added == (("colour", "clip"),)
    assert counts(found) == {"clip": (0, 0, 7, 0), "colour": (0, 0, 7, 0), "line": (7, 0, 0, 0)}
    assert actions(found) == {"clip": "restart", "colour": "restart", "line": "start"}
    assert [model.reason for model in found.models[:2]] == [
        "other models stand behind it",
        "follows clip instead of changes",
    ]


def test_a_model_that_stops_keeps_its_outputs():
    resting = changed(PROJECTION, state=ModelState.INACTIVE)
    for after, reason in (((CLIP, resting, CAPTION), "inactive"), ((CLIP, CAPTION), "no longer")):
        left = tuple(changed(m, after=()) for m in after)
        found = planned(CHAIN, left)
        last = found.models[-1]
        assert (last.name, last.action, last.made) == ("projection", Action.STOP, 0)
        assert last.reason.startswith(reason)
        assert found.unused_topics == ("projection", "projection.dlq")
        assert found.unused_groups == ("projection",)
        assert counts(found)["caption"] == AS_IT_IS


def test_a_model_that_is_activated_again_makes_only_what_is_missing():
    resting = changed(PROJECTION, state=ModelState.INACTIVE)
    found = planned((CLIP, resting, CAPTION), CHAIN)
    assert counts(found)["projection"] == AS_IT_IS
    assert actions(found)["projection"] == "start"


def test_the_time_is_that_of_the_slowest_model():
    rates = {"clip": 3.0, "projection": 60.0, "caption": 2.0}
    found = planned(CHAIN, CHAIN, stored=[StoredOutputs(document={}, count=60)], rates=rates)
    assert [model.seconds for model in found.models] == [20, 1, 30]
    assert found.seconds == 30


def test_a_time_that_was_not_measured_is_not_known():
    rates = {"clip": 3.0, "projection": 0.0}
    found = planned(CHAIN, CHAIN, stored=[StoredOutputs(document={}, count=60)], rates=rates)
    assert [model.seconds for model in found.models] == [20, None, None]
    assert found.seconds is None
    assert planned(CHAIN, CHAIN, stored=[]).seconds == 0
