"""Applying a versioned model to the features that events carry."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bson.timestamp import Timestamp

from streams.contract.documents import (
    Output,
)
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.pipeline import compile_pipeline
from streams.contract.states import Recaption
from streams.contract.versions import output_version
from streams.errors import FeatureMismatch, ModelFailed
from streams.models.projection import orthogonal_projection
from streams.registry.hot_model import Loaded
from streams.stages.apply import apply_model
from streams.stages.outcome import Failed, Ok, Result
from tests.bundles import projection_bundle
from tests.pipelines import CLIP_PROJECTION, DEFAULT


def loaded(clip_version=None, seed=0):
    model = orthogonal_projection(4, 2, seed=seed)
    bundle = projection_bundle(model, clip_version=clip_version)
    return Loaded(version=bundle.version, model=model, manifest=bundle.manifest)


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


def run(serving, events, model=CLIP_PROJECTION):
    calls = []

    def compute(vectors):
        calls.append(vectors)
        rows = serving.model(torch.from_numpy(vectors)).numpy()
        return [Output(value=row, version=serving.version) for row in rows]

    return apply_model(model, serving, events, compute), calls


def test_batch_is_computed_at_once_and_carries_lineage():
    serving = loaded()
    outcomes, calls = run(serving, [event(1), event(2)])
    assert [vectors.shape for vectors in calls] == [(2, 4)]
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
    serving = loaded()
    [outcome], calls = run(serving, [event(**stored(serving.version))])
    assert outcome.result is Result.REUSED
    assert calls == []


@pytest.mark.parametrize(("version", "clip"), [("older", "c1"), (None, "c0")])
def test_stored_output_of_another_version_is_made_anew(version, clip):
    serving = loaded()
    [outcome], _ = run(serving, [event(**stored(version or serving.version, clip))])
    assert outcome.result is Result.DONE


def with_options(**options):
    """The projection, declared as a user's class with options."""
    own = {"kind": "own:Projection", "options": options}
    declarations = [
        d.model_copy(update=own) if d.name == CLIP_PROJECTION.name else d
        for d in DEFAULT.declarations
    ]
    return compile_pipeline(declarations).models[CLIP_PROJECTION.name]


def test_stored_output_of_other_options_is_made_anew():
    """Fails when `_without_model` compares the versions of the weights, or `_made` names them."""
    serving, model = loaded(), with_options(scale=5)
    [outcome], _ = run(serving, [event(**stored(serving.version))], model)
    assert outcome.result is Result.DONE
    made = outcome.event.outputs["clip_projection"]
    assert made.version == output_version(model.declaration, serving.version) != serving.version
    [again], calls = run(serving, [outcome.event], model)
    assert (again.result, calls) == (Result.REUSED, [])
    [other], _ = run(serving, [outcome.event], with_options(scale=4))
    assert other.result is Result.DONE


@pytest.mark.parametrize("dimension", [4, 5], ids=["NaN", "another length"])
def test_failure_names_the_version_that_an_output_would(dimension):
    """Fails with the version of the weights: the error would be of a version that never serves.

    So the document would be put through again and again.
    """
    model, serving = with_options(scale=5), loaded("c1")

    def compute(vectors):
        return [Output(value=np.full(2, np.nan, np.float32), version="p1")]

    [failed] = apply_model(model, serving, [event(dimension=dimension)], compute)
    assert isinstance(failed.error, ModelFailed | FeatureMismatch)
    assert failed.version == output_version(model.declaration, serving.version)


def test_outputs_of_models_that_are_not_known_are_carried_on():
    stranger = Output(value={"a": 1}, version="s1", inputs={"title": "cd"})
    [outcome], _ = run(loaded(), [event(stranger=stranger)])
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
    """JSON and the next model cannot take it. Fails without `isfinite` in `_made`."""

    def compute(vectors):
        return [Output(**fields, version="p1") for fields in (good, bad)]

    fine, failed = apply_model(CLIP_PROJECTION, loaded(), [event(1), event(2)], compute)
    assert fine.result is Result.DONE
    assert isinstance(failed.error, ModelFailed)
    assert failed.version == loaded().version


def test_without_a_version_the_document_awaits_a_model():
    [outcome] = apply_model(CLIP_PROJECTION, None, [event()], lambda _: [])
    assert outcome == Ok(event=None, result=Result.AWAITING_MODEL)


def test_version_fitted_on_another_clip_is_not_applied():
    [outcome], calls = run(loaded(clip_version="c0"), [event()])
    assert outcome.result is Result.AWAITING_MODEL
    assert calls == []


@pytest.mark.parametrize("origin", list(Origin))
@pytest.mark.parametrize("serving", [None, loaded()], ids=["no version", "a version"])
def test_event_that_went_past_a_failed_upstream_is_no_failure_of_its_reader(origin, serving):
    """As a change, or with outputs of others. Fails when it is: the error of CLIP says it all."""
    change = DocumentChanged(document_id=1, source=Timestamp(1, 1), origin=origin)
    others = Output(value="red", version="k1", inputs={"img": "ab"})
    passed = replace(event(), origin=origin, model="colour", outputs={"colour": others})
    outcomes = apply_model(CLIP_PROJECTION, serving, [change, passed], lambda _: [])
    assert outcomes == [Ok(event=None, result=Result.AWAITING_MODEL)] * 2


@pytest.mark.parametrize("clip_version", [None, "c0"])
def test_vector_of_another_clip_awaits_its_model(clip_version):
    """While CLIP changes. Fails when another length is a final failure."""
    serving = loaded(clip_version)
    known = event(1)
    if clip_version:
        known = replace(known, outputs={"clip": replace(known.outputs["clip"], version="c0")})
    outcomes, calls = run(serving, [known, event(2, dimension=5)])
    assert [o.result for o in outcomes] == [Result.DONE, Result.AWAITING_MODEL]
    assert [vectors.shape for vectors in calls] == [(1, 4)]


def test_vector_of_the_right_version_and_another_shape_fails_alone_with_both_numbers():
    outcomes, calls = run(loaded("c1"), [event(1), event(2, dimension=5)])
    assert isinstance(outcomes[1], Failed)
    assert isinstance(outcomes[1].error, FeatureMismatch)
    assert str(outcomes[1].error) == "'clip' has shape (5,), expected (4,)"
    assert [vectors.shape for vectors in calls] == [(1, 4)]


def test_delete_travels_on():
    deleted = DocumentDeleted(document_id=1, source=Timestamp(1, 1))
    [outcome], _ = run(loaded(), [deleted])
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
    serving = replace(loaded(), recaption=recaption)
    repeated = replace(event(**stored("older", clip)), origin=origin)
    [outcome], _ = run(serving, [repeated])
    assert outcome.result is result
