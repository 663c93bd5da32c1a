"""One bad event fails alone; neighbours away and broken models are waited for."""

import pytest
from bson.timestamp import Timestamp

from streams.contract.events import DocumentChanged
from streams.errors import InvalidImage, ModelFailed, ProcessBroken, StoreUnavailable, Unavailable
from streams.settings import StageSettings
from streams.stages.isolate import Isolator
from streams.stages.outcome import Failed, Ok, Result


class ScriptedStep:
    """Raises on events whose id is in `poison`, a given number of times."""

    def __init__(self, poison=(), error=RuntimeError, times=10**9, is_well=True):
        self.poison, self.error, self.times, self.is_well = set(poison), error, times, is_well
        self.calls = []

    def run(self, events):
        ids = [event.document_id for event in events]
        self.calls.append(ids)
        if self.times > 0 and self.poison & set(ids):
            self.times -= 1
            msg = "scripted"
            raise self.error(msg)
        return [Ok(event=None, result=Result.DONE) for _ in ids]

    def self_test(self):
        return self.is_well

    def versions(self):
        return {"clip": "c1"}


def events(count):
    return [DocumentChanged(document_id=i, source=Timestamp(1, 1)) for i in range(count)]


def isolator(step, pauses=None, stop_after=10**9):
    pauses = [] if pauses is None else pauses

    def pause(seconds):
        pauses.append(seconds)
        return len(pauses) > stop_after

    settings = StageSettings(max_attempts=3)
    return Isolator("clip", step, settings, pause=pause, beat=lambda: None)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, RecursionError])
def test_only_the_poison_message_of_a_batch_fails(error):
    """Fails without the halving in `_bisect`."""
    outcomes = isolator(ScriptedStep(poison={11}, error=error)).apply(events(32))
    failed = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Failed)]
    assert failed == [11]
    assert isinstance(outcomes[11].error, ModelFailed)
    assert outcomes[11].attempts == 3
    assert outcomes[11].version == "c1"


def test_failure_that_passes_is_retried_with_back_off():
    pauses = []
    step = ScriptedStep(poison={0}, times=2)  # the batch, then the single event
    outcomes = isolator(step, pauses).apply(events(2))
    assert all(isinstance(outcome, Ok) for outcome in outcomes)
    assert len(pauses) == 1


def test_permanent_failure_is_not_retried():
    step = ScriptedStep(poison={0}, error=InvalidImage)
    outcomes = isolator(step).apply(events(1))
    assert isinstance(outcomes[0].error, InvalidImage)
    assert step.calls == [[0]]


def test_neighbour_away_is_waited_for_and_nothing_fails():
    pauses = []
    step = ScriptedStep(poison={0}, error=StoreUnavailable, times=7)
    outcomes = isolator(step, pauses).apply(events(4))
    assert all(isinstance(outcome, Ok) for outcome in outcomes)
    assert len(pauses) == 7


def test_reason_of_waiting_is_told_and_forgotten():
    reasons = []

    def pause(_):
        reasons.append(held.waits_for)
        return False

    step = ScriptedStep(poison={0}, error=StoreUnavailable, times=1)
    settings = StageSettings()
    held = Isolator("clip", step, settings, pause=pause, beat=lambda: None)
    held.apply(events(1))
    assert reasons == ["scripted"]
    assert held.waits_for == ""


def test_stopping_while_a_neighbour_is_away_leaves_the_batch_unfinished():
    step = ScriptedStep(poison={0}, error=StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        isolator(step, stop_after=2).apply(events(1))


def test_broken_model_holds_the_batch_instead_of_filling_the_dead_letters():
    """Fails without the self-test in `apply`."""
    step = ScriptedStep(poison=range(4), is_well=False)
    with pytest.raises(Unavailable, match="model is broken"):
        isolator(step, stop_after=4).apply(events(4))


class UntestableStep(ScriptedStep):
    """Its self-test cannot even be made."""

    def self_test(self):
        msg = "scripted"
        raise OSError(msg)


@pytest.mark.parametrize("make", [ScriptedStep, UntestableStep])
def test_model_that_stays_broken_is_trouble_and_then_ends_the_process(make):
    """Fails when it is held for ever, or when a raising self-test leaves as another error."""
    troubles = []

    def pause(_):
        troubles.append(held.trouble)
        return False

    step = make(poison=range(4), is_well=False)
    held = Isolator("clip", step, StageSettings(), pause=pause, beat=lambda: None)
    with pytest.raises(ProcessBroken, match="failed its self-test 6 times in a row"):
        held.apply(events(4))
    assert [bool(trouble) for trouble in troubles] == [False] * 4 + [True] * 3


def test_model_that_recovers_finishes_the_held_batch():
    step = ScriptedStep(poison=range(4), is_well=False, times=40)
    recovering = isolator(step)
    assert all(isinstance(outcome, Ok) for outcome in recovering.apply(events(4)))
    assert recovering.trouble == ""
