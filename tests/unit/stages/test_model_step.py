"""The step of a model that reads what events carry."""

from dataclasses import replace

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.declaration import Declaration
from streams.contract.documents import Output
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.manifest import Feature
from streams.contract.pipeline import compile_pipeline
from streams.contract.states import Recaption
from streams.contract.versions import output_version
from streams.errors import FeatureMismatch, ModelFailed
from streams.models.kinds.find import load
from streams.models.kinds.kind import Made
from streams.models.projection import orthogonal_projection
from streams.stages.model_step import ModelStep, Ready
from streams.stages.outcome import Failed, Ok, Result
from tests.bundles import projection_bundle
from tests.pipelines import CLIP_PROJECTION, DEFAULT, with_options


class Counted:
    """A loaded version that keeps how many inputs each of its batches had."""

    def __init__(self, predictor):
        self._predictor = predictor
        self.batches = []

    def preprocess(self, item):
        return self._predictor.preprocess(item)

    def predict(self, items):
        self.batches.append(len(items))
        return self._predictor.predict(items)


class Fixed:
    """Makes what it is told to."""

    def __init__(self, *results):
        self._results = results
        self.batches = []

    def preprocess(self, item):
        return item

    def predict(self, items):
        return list(self._results)


def ready(clip_version=None, seed=0, model=CLIP_PROJECTION):
    made = orthogonal_projection(4, 2, seed=seed)
    bundle = projection_bundle(made, clip_version=clip_version)
    return Ready(
        version=output_version(model.declaration, bundle.version),
        predictor=Counted(load(model.declaration, bundle)),
        features=bundle.manifest.features,
    )


def event(document_id=1, dimension=4, **outputs):
    value = np.arange(1, dimension + 1, dtype=np.float32)
    clip = Output(value=value, version="c1", inputs={"img": "ab"})
    return ModelApplied(
        document_id=document_id,
        source=Timestamp(1, 1),
        origin=Origin.LIVE,
        model="clip",
        outputs={"clip": clip, **outputs},
    )


def run(serving, events, model=CLIP_PROJECTION, pipeline=DEFAULT):
    outcomes = ModelStep(model, pipeline, lambda: serving, lambda: True).run(events)
    return outcomes, serving.predictor.batches if serving else []


def test_batch_is_computed_at_once_and_carries_lineage():
    serving = ready()
    outcomes, calls = run(serving, [event(1), event(2)])
    assert calls == [2]
    for outcome in outcomes:
        made = outcome.event.outputs["clip_projection"]
        assert (made.version, dict(made.features)) == (serving.version, {"clip": "c1"})
        assert made.inputs == {"img": "ab"}
        assert outcome.event.model == "clip_projection"
        assert "clip" in outcome.event.outputs


def stored(version, clip="c1"):
    value = np.ones(2, np.float32)
    made = Output(value=value, version=version, features={"clip": clip}, inputs={"img": "ab"})
    return {"clip_projection": made}


def test_stored_output_of_the_same_versions_is_sent_on():
    serving = ready()
    [outcome], calls = run(serving, [event(**stored(serving.version))])
    assert outcome.result is Result.REUSED
    assert calls == []


@pytest.mark.parametrize(("version", "clip"), [("older", "c1"), (None, "c0")])
def test_stored_output_of_another_version_is_made_anew(version, clip):
    serving = ready()
    [outcome], _ = run(serving, [event(**stored(version or serving.version, clip))])
    assert outcome.result is Result.DONE


def test_stored_output_of_other_options_is_made_anew():
    """Fails when versions of weights are compared, or outputs name them."""
    wide = with_options("conditional_lm", beam_width=5).models["conditional_lm"]
    serving = replace(ready(), version=output_version(wide.declaration, "v"))
    made = Output(value="a", version="v", features={"clip": "c1"}, inputs={"img": "ab"})
    serving = replace(serving, predictor=Fixed(Made(value="b")))
    [outcome], _ = run(serving, [event(conditional_lm=made)], wide)
    assert outcome.result is Result.DONE
    assert outcome.event.outputs["conditional_lm"].version == serving.version != "v"
    [again], _ = run(serving, [outcome.event], wide)
    assert again.result is Result.REUSED


def test_outputs_of_models_that_are_not_known_are_carried_on():
    stranger = Output(value={"a": 1}, version="s1", inputs={"title": "cd"})
    [outcome], _ = run(ready(), [event(stranger=stranger)])
    assert outcome.event.outputs["stranger"] is stranger


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"value": np.array([1, np.nan], np.float32)}, {"value": np.ones(2, np.float32)}),
        ({"value": np.array([1, np.inf], np.float32)}, {"value": np.zeros(2, np.float32)}),
        ({"value": "a cat", "score": float("nan")}, {"value": "a cat", "score": -1.0}),
        ({"value": "a cat", "score": float("-inf")}, {"value": "a cat", "score": None}),
    ],
    ids=["NaN", "infinity", "score NaN", "score infinity"],
)
def test_output_that_is_no_number_fails_alone(bad, good):
    """JSON and the next model cannot take it. Fails without `isfinite` in `_outcome`."""
    serving = replace(ready(), predictor=Fixed(Made(**good), Made(**bad)), version="v+12345678")
    [fine, failed], _ = run(serving, [event(1), event(2)])
    assert fine.result is Result.DONE
    assert isinstance(failed.error, ModelFailed)
    assert failed.version == "v+12345678", "as an output would name it"


def test_what_the_model_says_of_one_input_is_its_documents_failure():
    error = ModelFailed("no words")
    serving = replace(ready(), predictor=Fixed(error, Made(value="b")))
    [failed, fine], _ = run(serving, [event(1), event(2)])
    assert (failed.error, failed.version) == (error, serving.version)
    assert fine.event.outputs["clip_projection"].value == "b"


def test_input_that_cannot_be_prepared_fails_alone():
    text = {"clip": replace(event().outputs["clip"], value="no vector")}
    serving = replace(ready(), features={"clip": Feature()})
    outcomes, calls = run(serving, [event(1), replace(event(2), outputs=text), event(3)])
    assert [isinstance(outcome, Ok) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error, FeatureMismatch)
    assert calls == [2]


def test_without_a_version_the_document_awaits_a_model():
    [outcome], _ = run(None, [event()])
    assert outcome == Ok(event=None, result=Result.AWAITING_MODEL)


@pytest.mark.parametrize("origin", list(Origin))
@pytest.mark.parametrize("serving", [None, ready()], ids=["no version", "a version"])
def test_event_that_went_past_a_failed_upstream_is_no_failure_of_its_reader(origin, serving):
    """As a change, or with outputs of others. Fails when it is: the error of CLIP says it all."""
    change = DocumentChanged(document_id=1, source=Timestamp(1, 1), origin=origin)
    others = Output(value="red", version="k1", inputs={"img": "ab"})
    passed = replace(event(), origin=origin, model="colour", outputs={"colour": others})
    outcomes, calls = run(serving, [change, passed])
    assert outcomes == [Ok(event=None, result=Result.AWAITING_MODEL)] * 2
    assert calls == []


JOIN = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="mood", kind="a:B", key="title"),
        Declaration(name="both", kind="a:C", features={"img": "clip", "mood": "mood"}),
    ]
)


def joined(title="t1", *, clip="ab", **outputs):
    made = {"clip": Output(value=np.ones(4, np.float32), version="c1", inputs={"img": clip})}
    made["mood"] = Output(value="gay", version="m1", inputs={"title": title})
    return replace(event(), outputs=made | outputs)


def run_both(event):
    serving = Ready(
        version="b1",
        predictor=Fixed(Made(value={"a": 1})),
        features={"clip": Feature(dimension=4), "mood": Feature()},
    )
    [outcome], _ = run(serving, [event], JOIN.models["both"], JOIN)
    return outcome


def test_join_is_made_of_all_that_its_features_were_made_of():
    outcome = run_both(joined())
    made = outcome.event.outputs["both"]
    assert made.inputs == {"img": "ab", "title": "t1"}
    assert made.features == {"clip": "c1", "mood": "m1"}


def test_stored_output_of_another_content_is_made_anew():
    """Fails when versions alone are compared: the title was changed, no version was."""
    before = run_both(joined("t1")).event.outputs["both"]
    assert run_both(joined("t1", both=before)).result is Result.REUSED
    assert run_both(joined("t2", both=before)).result is Result.DONE


def test_outputs_of_two_contents_of_one_field_are_not_joined():
    """The newer one's own event comes. Fails when one fingerprint wins."""
    mixed = joined()
    mood = replace(mixed.outputs["mood"], inputs={"title": "t1", "img": "cd"})
    outcome = run_both(replace(mixed, outputs=mixed.outputs | {"mood": mood}))
    assert outcome == Ok(event=None, result=Result.SUPERSEDED)


def test_version_fitted_on_another_clip_is_not_applied():
    [outcome], calls = run(ready(clip_version="c0"), [event()])
    assert outcome.result is Result.AWAITING_MODEL
    assert calls == []


@pytest.mark.parametrize("clip_version", [None, "c0"])
def test_vector_of_another_clip_awaits_its_model(clip_version):
    """While CLIP changes. Fails when another length is a final failure."""
    serving = ready(clip_version)
    known = event(1)
    if clip_version:
        known = replace(known, outputs={"clip": replace(known.outputs["clip"], version="c0")})
    outcomes, calls = run(serving, [known, event(2, dimension=5)])
    assert [o.result for o in outcomes] == [Result.DONE, Result.AWAITING_MODEL]
    assert calls == [1]


def test_vector_of_the_right_version_and_another_shape_fails_alone_with_both_numbers():
    outcomes, calls = run(ready("c1"), [event(1), event(2, dimension=5)])
    assert isinstance(outcomes[1], Failed)
    assert isinstance(outcomes[1].error, FeatureMismatch)
    assert str(outcomes[1].error) == "'clip' has shape (5,), expected (4,)"
    assert calls == [1]


def test_delete_travels_on():
    deleted = DocumentDeleted(document_id=1, source=Timestamp(1, 1))
    [outcome], _ = run(ready(), [deleted])
    assert outcome == Ok(event=deleted, result=Result.DELETED)


@pytest.mark.parametrize(
    ("origin", "recaption", "clip", "result"),
    [
        (Origin.RECONCILE, Recaption.ALL, "c1", Result.DONE),
        (Origin.RECONCILE, Recaption.STALE, "c1", Result.REUSED),
        (Origin.RECONCILE, Recaption.STALE, "c0", Result.DONE),
        (Origin.COPY, Recaption.NONE, "c0", Result.REUSED),
        (Origin.LIVE, Recaption.NONE, "c1", Result.DONE),
    ],
)
def test_repeat_leaves_alone_what_the_promotion_leaves_alone(origin, recaption, clip, result):
    serving = replace(ready(), recaption=recaption)
    repeated = replace(event(**stored("older", clip)), origin=origin)
    [outcome], _ = run(serving, [repeated])
    assert outcome.result is result
