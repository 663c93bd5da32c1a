"""Identity, captions, guards and states, without a server."""

import numpy as np
import pytest
from bson.binary import Binary
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
    fingerprint,
    output_fields,
    stored_output,
    usable_captions,
)
from streams.contract.states import DocumentState, Serving, document_state
from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM

T1 = Timestamp(100, 1)


def test_fingerprint_is_blake2b_of_16_bytes():
    assert fingerprint(b"") == "cae66941d9efbd404e4d88758ea67670"


def test_only_texts_with_a_letter_are_captions():
    odd = [None, float("nan"), 5, True, ["a", "b"], {"raw": "a"}, "", "  ", "42 !", "🐈", "a\ud800"]
    good = ["a cat", "一只猫", "एक कुत्ता", "é"]
    assert usable_captions([*odd, *good]) == (tuple(good), len(odd))


@pytest.mark.parametrize(
    ("value", "passed_over"), [(None, 0), ([], 0), ("a cat", 1), ({"a": 1}, 1)]
)
def test_what_is_no_list_of_captions_is_counted_as_one(value, passed_over):
    assert usable_captions(value) == ((), passed_over)


def document_of(output, model=CONDITIONAL_LM):
    return {"_outputs": {model.key: {model.name: output_fields(output, source=T1)}}}


@pytest.mark.parametrize(
    "value",
    ["a cat", None, True, 5, -0.5, [1, [], None], {"boxes": [{"x": 1.5}], "": ""}],
    ids=repr,
)
def test_output_is_stored_and_read_as_it_was_made(value):
    output = Output(
        value=value,
        version="l1+01234567",
        features={"clip": "c1"},
        inputs={"img": "ab"},
        score=-0.5,
        url="http://u",
    )
    assert stored_output(document_of(output), CONDITIONAL_LM, {"img": "ab"}) == output


def test_what_an_output_does_not_have_is_not_stored():
    fields = output_fields(Output(value="x", version="l1", inputs={"img": "ab"}), source=T1)
    assert fields.keys() == {"format", "value", "version", "features", "input", "source", "at"}
    assert fields["input"] == {"img": "ab"}


def test_stored_output_of_another_input_is_not_reused():
    output = Output(value=np.ones(3, np.float32), version="v1", inputs={"img": "a"})
    assert stored_output(document_of(output, CLIP), CLIP, {"img": "a"}) is not None
    assert stored_output(document_of(output, CLIP), CLIP, {}) is not None
    assert stored_output(document_of(output, CLIP), CLIP, {"title": "b"}) is not None
    assert stored_output(document_of(output, CLIP), CLIP, {"img": "b"}) is None


GOOD = {"format": 1, "input": {"img": "a"}, "version": "v", "value": "x"}


def test_score_and_url_of_another_type_are_ignored():
    """Fails without the checks in `stored_output`: they could not travel on a topic."""
    stored = {**GOOD, "score": {1}, "url": b"u"}
    found = stored_output({"_outputs": {"img": {"clip": stored}}}, CLIP, {"img": "a"})
    assert (found.score, found.url) == (None, None)


@pytest.mark.parametrize("features", [{"clip": T1}, {"clip": None}, {"$where": "x"}, None, 5])
def test_stored_output_with_features_of_no_model_is_not_reused(features):
    """Fails without the check in `stored_output`: they could not travel on a topic."""
    stored = {**GOOD, "features": features}
    assert stored_output({"_outputs": {"img": {"clip": stored}}}, CLIP, {"img": "a"}) is None


def test_stored_output_keeps_the_features_of_models_that_are_not_known_here():
    """Fails when they are looked up in a pipeline: another one was declared then."""
    stored = {**GOOD, "features": {"stranger": "s1"}}
    found = stored_output({"_outputs": {"img": {"clip": stored}}}, CLIP, {"img": "a"})
    assert found.features == {"stranger": "s1"}


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        5,
        {"img": 5},
        *(
            {"img": {"clip": {**GOOD, **change}}}
            for change in (
                {"version": 3},
                {"version": None},
                {"value": T1},
                {"value": float("nan")},
                {"value": Binary(b"'", 9)},
                {"error": {"retryable": True}},
                {"input": "a"},
            )
        ),
        {"img": {"clip": {name: GOOD[name] for name in ("format", "input", "version")}}},
    ],
    ids=repr,
)
def test_stored_output_of_any_shape_is_ignored(outputs):
    assert stored_output({"_outputs": {"img": {"clip": GOOD}}}, CLIP, {"img": "a"}) is not None
    assert stored_output({"_outputs": outputs}, CLIP, {"img": "a"}) is None


SERVING = Serving(
    pipeline=DEFAULT,
    versions={"clip": "c1", "clip_projection": "p1", "conditional_lm": "l1"},
    requires={"conditional_lm": {"clip": "c1"}},
)


def outputs_document(**changes):
    outputs = {
        "clip": {"version": "c1"},
        "clip_projection": {"version": "p1", "features": {"clip": "c1"}},
        "conditional_lm": {"version": "l1", "features": {"clip": "c1"}},
        **changes,
    }
    kept = {name: value for name, value in outputs.items() if value is not None}
    return {
        "_outputs": {
            "img": {name: kept[name] for name in ("clip", "clip_projection") if name in kept},
            "_base": {name: kept[name] for name in ("conditional_lm",) if name in kept},
        }
    }


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, DocumentState.CAPTIONED),
        ({"clip": None}, DocumentState.PENDING),
        ({"clip": {"version": "c0"}}, DocumentState.PENDING),
        ({"conditional_lm": None}, DocumentState.PENDING),
        (
            {"conditional_lm": {"version": "l0", "features": {"clip": "c1"}}},
            DocumentState.PENDING,
        ),
        (
            {"conditional_lm": {"version": "l1", "features": {"clip": "c0"}}},
            DocumentState.PENDING,
        ),
        ({"clip": {"version": "c1", "error": {"retryable": False}}}, DocumentState.FAILED),
        ({"clip": {"version": "c0", "error": {"retryable": False}}}, DocumentState.PENDING),
        (
            {"conditional_lm": {"version": "l1", "error": {"retryable": True}}},
            DocumentState.FAILED,
        ),
    ],
)
def test_state_follows_from_outputs_and_serving_versions(changes, state):
    assert document_state(outputs_document(**changes), SERVING) is state


def test_failed_image_is_failed_although_nothing_stands_downstream():
    document = outputs_document(
        clip={"version": "c1", "error": {"retryable": False}},
        clip_projection=None,
        conditional_lm=None,
    )
    assert document_state(document, SERVING) is DocumentState.FAILED


def test_without_a_captioner_a_document_awaits_a_model():
    serving = Serving(pipeline=DEFAULT, versions={"clip": "c1", "clip_projection": "p1"})
    document = outputs_document(conditional_lm=None)
    assert document_state(document, serving) is DocumentState.AWAITING_MODEL


def test_captioner_fitted_on_another_clip_cannot_run():
    serving = Serving(
        pipeline=DEFAULT,
        versions={"clip": "c2", "conditional_lm": "l1"},
        requires={"conditional_lm": {"clip": "c1"}},
    )
    assert not serving.can_run(CONDITIONAL_LM)
    assert serving.can_run(CLIP)
    assert not serving.can_run(CLIP_PROJECTION)
