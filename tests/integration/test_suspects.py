"""What is remembered of events on which a model hung, and what is done about them."""

from dataclasses import replace

import pytest
from bson.timestamp import Timestamp

from streams.errors import ModelHung, StoreUnavailable
from streams.events import ImageChanged, Origin
from streams.mongo import state_database
from streams.stages.careful import CarefulStep
from streams.stages.outcome import Failed, Ok, Result
from streams.stages.suspects import Standing, Suspects

V1, V2 = {"clip": "v1"}, {"clip": "v2"}
EVENTS = [ImageChanged(document_id=i, source=Timestamp(5, i)) for i in range(3)]


class RecordingStep:
    """Notes what it is given, and raises what it is told."""

    def __init__(self):
        self.calls = []
        self.error = None

    def run(self, events):
        self.calls.append([event.document_id for event in events])
        if self.error is not None and len(events) == 1:
            raise self.error
        return [Ok(event=None, result=Result.DONE) for _ in events]

    def self_test(self):
        return True

    def versions(self):
        return V1


@pytest.fixture
def make(settings, mongo_client):
    state = state_database(mongo_client, settings.mongo)

    def make():
        made = Suspects(state, "featurize")
        made.refresh()
        return made

    return make


def careful(suspects):
    step = RecordingStep()
    beats = []
    return step, CarefulStep(step, suspects, beat=lambda: beats.append(1)), beats


def test_batch_is_suspected_and_a_single_event_is_guilty(make):
    make().accuse(EVENTS, V1)
    make().accuse(EVENTS[1:2], V1)
    known = make()
    assert [known.standing(event, V1).value for event in EVENTS] == [
        "suspected",
        "guilty",
        "suspected",
    ]
    assert {known.standing(event, V2) for event in EVENTS} == {Standing.GOOD}
    changed = replace(EVENTS[1], source=Timestamp(6, 1))
    assert known.standing(changed, V1) is Standing.GOOD


def test_suspects_run_alone_after_the_others_and_are_cleared(make):
    """Fails without `clear` in `_run_alone`."""
    make().accuse(EVENTS[:2], V1)
    step, subject, beats = careful(make())
    assert [type(outcome) for outcome in subject.run(EVENTS)] == [Ok] * 3
    assert step.calls == [[2], [0], [1]]
    assert len(beats) == 2
    assert {make().standing(event, V1) for event in EVENTS} == {Standing.GOOD}


def test_guilty_event_fails_without_the_model_unless_it_is_replayed(make):
    make().accuse(EVENTS[:1], V1)
    step, subject, _ = careful(make())
    [failed, _, _] = subject.run(EVENTS)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ModelHung)
    assert not failed.error.is_retryable
    assert step.calls == [[1, 2]]
    subject.run([replace(EVENTS[0], origin=Origin.REPLAY)])
    assert step.calls[-1] == [0]
    assert make().standing(EVENTS[0], V1) is Standing.GOOD


@pytest.mark.parametrize(
    ("error", "standing"),
    [(RuntimeError("x"), Standing.GOOD), (StoreUnavailable("x"), Standing.SUSPECTED)],
)
def test_suspect_that_raises_does_not_hang(make, error, standing):
    """Unless a neighbour was away: then nothing was tried."""
    make().accuse(EVENTS[:2], V1)
    step, subject, _ = careful(make())
    step.error = error
    with pytest.raises(type(error)):
        subject.run(EVENTS[:1])
    assert make().standing(EVENTS[0], V1) is standing
    assert subject.in_hand == ()
