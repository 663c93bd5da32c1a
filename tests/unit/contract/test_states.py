"""What a promotion means for outputs that are stored."""

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.states import DocumentState, Recaption, Serving, document_state, pending_model
from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM

ALL, STALE, NONE = Recaption.ALL, Recaption.STALE, Recaption.NONE
OLD = {"version": "l1", "features": {"clip": "c1"}}
NEW = {"version": "l2", "features": {"clip": "c1"}}
FINAL = {"retryable": False}


def serving(recaption, **versions):
    """The captioner l2 serves since a move of that kind."""
    return Serving(
        pipeline=DEFAULT,
        versions={"clip": "c1", "clip_projection": "p1", "conditional_lm": "l2", **versions},
        recaption={"conditional_lm": recaption},
    )


def document(caption, clip="c1"):
    base = {} if caption is None else {"conditional_lm": caption}
    return {
        "_outputs": {
            "img": {
                "clip": {"version": clip},
                "clip_projection": {"version": "p1", "features": {"clip": clip}},
            },
            "_base": base,
        }
    }


@pytest.mark.parametrize(
    ("caption", "pending_under"),
    [
        (NEW, set()),
        (None, {ALL, STALE, NONE}),
        (OLD, {ALL}),
        ({**OLD, "features": {"clip": "c0"}}, {ALL, STALE}),
        ({"version": "l1", "error": FINAL}, {ALL, STALE}),
        ({"version": "", "error": FINAL}, {ALL, STALE}),
        ({"version": "l2", "error": FINAL}, set()),
        # The features of its own version changed later, by a move of theirs.
        ({**NEW, "features": {"clip": "c0"}}, {ALL, STALE, NONE}),
    ],
    ids=["new", "missing", "old", "old features", "old error", "odd error", "error", "features"],
)
@pytest.mark.parametrize("recaption", list(Recaption))
def test_the_newest_move_decides_what_is_made_again(caption, pending_under, recaption):
    expected = CONDITIONAL_LM if recaption in pending_under else None
    assert pending_model(document(caption), serving(recaption)) is expected


@pytest.mark.parametrize("recaption", [STALE, NONE])
def test_document_whose_old_caption_stays_is_captioned(recaption):
    assert document_state(document(OLD), serving(recaption)) is DocumentState.CAPTIONED


def test_error_that_stays_is_a_failure_not_pending():
    found = document_state(document({"version": "l1", "error": FINAL}), serving(NONE))
    assert found is DocumentState.FAILED


def test_move_says_nothing_about_other_models():
    assert pending_model(document(OLD, clip="c0"), serving(NONE)) is CLIP
    assert pending_model(document(OLD), serving(NONE, clip_projection="p2")) is CLIP_PROJECTION


def test_move_that_said_nothing_remakes_everything():
    versions = serving(ALL).versions
    assert (
        pending_model(document(OLD), Serving(pipeline=DEFAULT, versions=versions)) is CONDITIONAL_LM
    )


def test_model_that_reads_vectors_of_another_length_is_awaited_not_pending():
    """Fails when `can_run` does not look at `misfits`."""
    unfit = Serving(
        pipeline=DEFAULT, versions=serving(ALL).versions, misfits=frozenset({"conditional_lm"})
    )
    assert document_state(document(OLD), unfit) is DocumentState.AWAITING_MODEL


def failed(model, *without):
    """A document with a final error of a model, and without the outputs of some others."""
    found = document(NEW)
    outputs = found["_outputs"]
    outputs[model.key][model.name] = {"version": serving(ALL).versions[model.name], "error": FINAL}
    for other in without:
        del outputs[other.key][other.name]
    return found


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (failed(CLIP, CLIP_PROJECTION, CONDITIONAL_LM), None),
        (failed(CLIP_PROJECTION), None),
        (failed(CLIP_PROJECTION, CONDITIONAL_LM), CONDITIONAL_LM),
        (failed(CONDITIONAL_LM), None),
        (failed(CONDITIONAL_LM, CLIP_PROJECTION), CLIP_PROJECTION),
    ],
    ids=["image", "projection", "projection, no caption", "caption", "caption, no projection"],
)
def test_error_stops_what_reads_it_and_nothing_else(stored, expected):
    """Fails without the look at `ancestors`, or when any error before a model stops it."""
    assert pending_model(stored, serving(ALL)) is expected
    state = DocumentState.PENDING if expected else DocumentState.FAILED
    assert document_state(stored, serving(ALL)) is state
