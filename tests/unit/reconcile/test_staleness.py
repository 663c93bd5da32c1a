"""What is repeated at once, and what may be on its way."""

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.states import Recaption, Serving
from streams.reconcile import staleness as module
from streams.reconcile.staleness import Staleness
from tests.pipelines import CLIP, CONDITIONAL_LM

SERVING = Serving(
    pipeline=DEFAULT, versions={"clip": "c1", "clip_projection": "p1", "conditional_lm": "l1"}
)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def fresh(document_id=1):
    return {"_id": document_id}


def captioned_by(version):
    return {"_id": 1, "_outputs": {"_base": {"conditional_lm": {"version": version}}}}


def staleness():
    clock = Clock()
    return Staleness(grace_seconds=10, clock=clock), clock


def test_document_on_its_way_is_left_alone_for_the_grace():
    seen, clock = staleness()
    assert not seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    clock.now += 9
    assert not seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    clock.now += 1
    assert seen.is_due(fresh(), CLIP, SERVING)


def test_document_that_moves_on_gets_a_new_grace():
    seen, clock = staleness()
    seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    clock.now += 20
    moved = {"_id": 1, "_outputs": {"img": {"clip": {"version": "c1"}}}}
    assert not seen.is_due(moved, CONDITIONAL_LM, SERVING)


def test_document_repeated_once_is_not_repeated_in_the_next_scan():
    seen, clock = staleness()
    seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    clock.now += 10
    assert seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    seen.note_repeated([1])
    clock.now += 1
    assert not seen.is_due(fresh(), CLIP, SERVING)


def test_document_that_was_due_and_not_repeated_stays_due():
    seen, clock = staleness()
    seen.is_due(fresh(), CLIP, SERVING)
    for _ in range(2):
        seen.end_scan()
        clock.now += 10
        assert seen.is_due(fresh(), CLIP, SERVING)


@pytest.mark.parametrize("document", [fresh(), captioned_by("l0")], ids=["missing", "stale"])
def test_document_repeated_in_vain_waits_twice_as_long_each_time(document):
    seen, clock = staleness()
    seen.is_due(document, CONDITIONAL_LM, SERVING)
    for repeats, wait in enumerate((20, 40, 80), start=1):
        seen.end_scan()
        seen.note_repeated([1])
        assert seen.repeats(1) == repeats
        clock.now += wait - 1
        assert not seen.is_due(document, CONDITIONAL_LM, SERVING)
        seen.end_scan()
        clock.now += 1
        assert seen.is_due(document, CONDITIONAL_LM, SERVING)


def test_progress_makes_repeats_forgotten():
    seen, _ = staleness()
    seen.is_due(fresh(), CLIP, SERVING)
    seen.end_scan()
    seen.note_repeated([1])
    seen.is_due(captioned_by("l0"), CLIP, SERVING)
    seen.end_scan()
    assert seen.repeats(1) == 0


def test_output_of_another_version_is_repeated_at_once():
    seen, _ = staleness()
    assert seen.is_due(captioned_by("l0"), CONDITIONAL_LM, SERVING)


def test_new_version_makes_missing_outputs_due_at_once_in_the_next_scan_only():
    seen, clock = staleness()
    assert not seen.notice(Serving(pipeline=DEFAULT, versions={"clip": "c1"}))
    assert seen.notice(SERVING)
    assert seen.is_due(fresh(), CONDITIONAL_LM, SERVING)
    seen.end_scan()
    assert not seen.notice(SERVING)
    clock.now += 1
    assert not seen.is_due(fresh(2), CONDITIONAL_LM, SERVING)


def test_other_recaption_of_the_same_version_is_noticed():
    seen, _ = staleness()
    left = Serving(
        pipeline=DEFAULT, versions=SERVING.versions, recaption={"conditional_lm": Recaption.NONE}
    )
    assert not seen.notice(left)
    assert seen.notice(SERVING)
    assert seen.is_due(captioned_by("l0"), CONDITIONAL_LM, SERVING)


def test_what_is_remembered_is_bounded(monkeypatch):
    """Fails without `is_full`, at which a scan ends."""
    monkeypatch.setattr(module, "_MOST_SIGHTS", 2)
    seen, _ = staleness()
    seen.is_due(fresh(1), CLIP, SERVING)
    assert not seen.is_full
    seen.is_due(fresh(2), CLIP, SERVING)
    assert seen.is_full
    seen.end_scan()
    assert not seen.is_full
