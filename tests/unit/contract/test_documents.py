"""Identity, captions, guards and states, without a server."""

import numpy as np
import pytest
from bson.binary import Binary
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
    fingerprint,
    output_fields,
    stored_output,
    usable_captions,
)
from streams.contract.states import DocumentState, Serving, document_state
from streams.contract.values import decode_vector, encode_vector
from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM

T1 = Timestamp(100, 1)


def test_fingerprint_is_blake2b_of_16_bytes():
    assert fingerprint(b"") == "cae66941d9efbd404e4d88758ea67670"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_vector_survives_bson(values):
    vector = np.array(values, dtype=np.float32)
    assert decode_vector(encode_vector(vector)).tolist() == vector.tolist()


@pytest.mark.parametrize("value", ["no vector", Binary(b"", 9), Binary(b"'", 9)])
def test_what_is_no_vector_is_refused(value):
    """Fails without `struct.error` in `decode_vector`: MongoDB stores any bytes as a vector."""
    with pytest.raises(ValueError, match="BSON vector"):
        decode_vector(value)


def test_only_texts_with_a_letter_are_captions():
    odd = [None, float("nan"), 5, True, ["a", "b"], {"raw": "a"}, "", "  ", "42 !", "🐈", "a\ud800"]
    good = ["a cat", "一只猫", "एक कुत्ता", "é"]
    assert usable_captions([*odd, *good]) == (tuple(good), len(odd))


@pytest.mark.parametrize(
    ("value", "passed_over"), [(None, 0), ([], 0), ("a cat", 1), ({"a": 1}, 1)]
)
def test_what_is_no_list_of_captions_is_counted_as_one(value, passed_over):
    assert usable_captions(value) == ((), passed_over)


@pytest.mark.parametrize(("width", "stored"), [(1, None), (5, 5)])
def test_beam_width_is_stored_unless_the_caption_is_greedy(width, stored):
    output = Output(value="a cat", version="l1", score=-0.5, beam_width=width)
    fields = output_fields(output, source=T1, input_fingerprint="ab")
    assert fields.get("beam_width") == stored
    document = {"_outputs": {"_base": {"conditional_lm": fields}}}
    assert stored_output(document, CONDITIONAL_LM, "ab") == output


def test_stored_output_of_another_input_is_not_reused():
    output = Output(value=np.ones(3, np.float32), version="v1")
    document = {
        "_outputs": {"img": {"clip": output_fields(output, source=T1, input_fingerprint="a")}}
    }
    assert stored_output(document, CLIP, "a") is not None
    assert stored_output(document, CLIP, "b") is None


def test_score_and_url_of_another_type_are_ignored():
    """Fails without the checks in `stored_output`: they could not travel on a topic."""
    stored = {"input": "a", "version": "v", "value": "x", "score": {1}, "url": b"u"}
    found = stored_output({"_outputs": {"img": {"clip": stored}}}, CLIP, "a")
    assert (found.score, found.url) == (None, None)


@pytest.mark.parametrize("features", [{"clip": T1}, {"clip": None}, {"$where": "x"}])
def test_stored_output_with_features_of_no_model_is_not_reused(features):
    """Fails without the check in `stored_output`: they could not travel on a topic."""
    stored = {"input": "a", "version": "v", "value": "x", "features": features}
    assert stored_output({"_outputs": {"img": {"clip": stored}}}, CLIP, "a") is None


@pytest.mark.parametrize(
    "outputs",
    [None, 5, {"img": 5}, {"img": {"clip": {"input": "a", "version": 3, "value": "x"}}}],
)
def test_stored_output_of_any_shape_is_ignored(outputs):
    assert stored_output({"_outputs": outputs}, CLIP, "a") is None


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
