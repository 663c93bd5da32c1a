"""What is remembered of events that a model did not survive, and what is done about them."""

from concurrent.futures import Future
from dataclasses import replace

import pytest
from bson.timestamp import Timestamp

from streams.contract.events import DocumentChanged
from streams.errors import ModelCrashed, ModelHung, StoreUnavailable
from streams.mongo.client import state_database
from streams.stages.outcome import Failed, Ok, Result, Waiting
from streams.stages.quarantine import Quarantine, Standing
from streams.stages.watchdog import WatchedStep

V1, V2 = {"clip": "v1"}, {"clip": "v2"}
EVENTS = [DocumentChanged(document_id=i, source=Timestamp(5, i)) for i in range(3)]


class RecordingStep:
    """Notes what it is given, and raises what it is given."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.watch = lambda: None

    def run(self, events):
        self.calls.append([event.document_id for event in events])
        self.watch()
        if self.error is not None and len(events) == 1:
            raise self.error
        return [Ok(event=None, result=Result.DONE) for _ in events]

    def self_test(self):
        return True

    def versions(self):
        return V1


@pytest.fixture
def make(settings, mongo_client):
    """Make what a further process of the stage knows."""
    state = state_database(mongo_client, settings.mongo)

    def make():
        made = Quarantine(state, "clip")
        made.prepare()
        made.refresh()
        return made

    return make


def watched(quarantine):
    step = RecordingStep()
    beats = []
    return step, WatchedStep(step, quarantine, beat=lambda: beats.append(1)), beats


def standings(quarantine, versions=V1):
    return [quarantine.standing(event, versions).value for event in EVENTS]


def test_what_another_process_has_in_hand_is_quarantined(make):
    mine = make()
    mine.take(EVENTS[:2], V1)
    other = make()
    assert standings(other) == ["quarantined", "quarantined", "free"]
    assert standings(other, V2) == ["free"] * 3
    changed = replace(EVENTS[1], source=Timestamp(6, 1))
    assert other.standing(changed, V1) is Standing.FREE
    mine.refresh()
    assert standings(mine) == ["free"] * 3
    mine.put_down()
    other.refresh()
    assert standings(other) == ["free"] * 3


def test_event_whose_image_is_on_its_way_stays_quarantined(make):
    """Fails without Waiting in `_run_alone`: the model would meet it in the middle of a batch."""
    make().take(EVENTS[:1], V1)
    mine = make()
    step, one, _ = watched(mine)
    waiting = Waiting(event=EVENTS[0], until=Future())
    step.run = lambda events: [waiting for _ in events]
    assert one.run(EVENTS[:1]) == [waiting]
    assert standings(mine) == standings(make()) == ["quarantined", "free", "free"]


def test_two_processes_that_end_alone_with_an_event_make_it_poison(make):
    """The same process may try as often as it likes: a neighbour may be away in between."""
    first = make()
    first.begin_alone(EVENTS[0], V1)
    first.begin_alone(EVENTS[0], V1)
    assert standings(make()) == ["quarantined", "free", "free"]
    make().begin_alone(EVENTS[0], V1)
    assert standings(make()) == ["crashes", "free", "free"]
    make().mark_hanging(EVENTS[0], V1)
    assert standings(make()) == ["hangs", "free", "free"]


def test_quarantined_events_run_alone_after_the_others_and_are_released(make):
    """Fails without `release` in `_run_alone`."""
    make().take(EVENTS[:2], V1)
    step, subject, beats = watched(make())
    assert [type(outcome) for outcome in subject.run(EVENTS)] == [Ok] * 3
    assert step.calls == [[2], [0], [1]]
    assert len(beats) == 2
    assert standings(make()) == ["free"] * 3


def test_batch_is_noted_while_the_step_has_it_and_no_longer(make):
    step, subject, _ = watched(make())
    seen = []
    step.watch = lambda: seen.append(standings(make()))
    subject.run(EVENTS)
    assert seen == [["quarantined"] * 3]
    assert standings(make()) == ["free"] * 3


@pytest.mark.parametrize("error", [ModelHung, ModelCrashed])
def test_poison_message_fails_without_the_model_until_its_document_is_released(make, error):
    """Fails without `refresh` in `_standings`: the replay comes before the next look."""
    if error is ModelHung:
        make().mark_hanging(EVENTS[0], V1)
    else:
        make().begin_alone(EVENTS[0], V1)
        make().begin_alone(EVENTS[0], V1)
    step, subject, _ = watched(make())
    [failed, _, _] = subject.run(EVENTS)
    assert isinstance(failed, Failed)
    assert type(failed.error) is error
    assert not failed.error.is_retryable
    assert step.calls == [[1, 2]]
    make().release_document(EVENTS[1].document_id)
    assert standings(make())[0] != "free"
    make().release_document(EVENTS[0].document_id)
    subject.run(EVENTS[:1])
    assert step.calls[-1] == [0]


@pytest.mark.parametrize(
    ("error", "standing"), [(RuntimeError("x"), "free"), (StoreUnavailable("x"), "quarantined")]
)
def test_quarantined_event_that_raises_does_not_hang(make, error, standing):
    """If a neighbour was away nothing was tried. Fails without `undo_alone` in `_run_alone`."""
    make().take(EVENTS[:1], V1)
    for _ in range(2):
        step, subject, _ = watched(make())
        step.error = error
        with pytest.raises(type(error)):
            subject.run(EVENTS[:1])
        assert subject.in_hand == ()
    assert standings(make())[0] == standing


def test_model_that_is_well_does_not_wait_for_a_note(make, monkeypatch):
    step, subject, _ = watched(quarantine := make())

    def refuse(*_):
        msg = "away"
        raise StoreUnavailable(msg)

    monkeypatch.setattr(quarantine, "take", refuse)
    monkeypatch.setattr(quarantine, "put_down", refuse)
    assert [type(outcome) for outcome in subject.run(EVENTS)] == [Ok] * 3
    assert step.calls == [[0, 1, 2]]
