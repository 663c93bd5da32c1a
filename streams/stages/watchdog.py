"""A step whose model may hang or crash: what it has in hand is noted, and how long is watched.

Quarantined events run alone, poison messages not at all.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from structlog import get_logger

from streams.errors import DocumentError, ModelCrashed, ModelHung, StoreUnavailable, Unavailable
from streams.following import Follower
from streams.stages.outcome import Failed, Input, Outcome, Step, Waiting
from streams.stages.quarantine import Quarantine, Standing

log = get_logger(__name__)

#: Exit code of a process whose model hangs (EX_SOFTWARE of sysexits.h).
HUNG: Final = 70
_TICK_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 5.0
_REMEDY: Final = "another image, another version of the model or a replay tries again"
_POISON: Final[Mapping[Standing, DocumentError]] = {
    Standing.HANGS: ModelHung(
        f"the model does not finish on this document: alone it ran until its process was given up;"
        f" {_REMEDY}"
    ),
    Standing.CRASHES: ModelCrashed(
        f"the model's process dies on this document: two died while it ran alone; {_REMEDY}"
    ),
}


class WatchedStep:
    """Runs a step, quarantined events alone; poison messages fail without it."""

    def __init__(self, step: Step, quarantine: Quarantine, *, beat: Callable[[], None]) -> None:
        """Keep what is needed; `beat` is called when an event has run alone, which takes time."""
        self._step = step
        self._beat = beat
        self._quarantine = quarantine
        #: What the step has now; a new object for each call of it.
        self.in_hand: Sequence[Input] = ()

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        versions = self.versions()
        standings = self._standings(events, versions)
        free = [i for i, standing in enumerate(standings) if standing is Standing.FREE]
        found = dict(zip(free, self._watched([events[i] for i in free]), strict=True))
        return [
            found[i] if i in found else self._run_alone(event, standing, versions)
            for i, (event, standing) in enumerate(zip(events, standings, strict=True))
        ]

    def self_test(self) -> bool:
        """Whether the step's model is well."""
        return self._step.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the versions that the step serves."""
        return self._step.versions()

    def _standings(
        self, events: Sequence[Input], versions: Mapping[str, str]
    ) -> Sequence[Standing]:
        found = [self._quarantine.standing(event, versions) for event in events]
        if any(standing in _POISON for standing in found):  # or released, a moment ago
            self._quarantine.refresh()
            found = [self._quarantine.standing(event, versions) for event in events]
        return found

    def _run_alone(self, event: Input, standing: Standing, versions: Mapping[str, str]) -> Outcome:
        if standing in _POISON:
            return Failed(error=_POISON[standing], version=next(iter(versions.values()), ""))
        self._quarantine.begin_alone(event, versions)
        try:
            [outcome] = self._watched([event])
        except Unavailable:
            self._note(lambda: self._quarantine.undo_alone(event, versions))
            raise
        except Exception:
            self._quarantine.release(event, versions)  # it raises, but does not hang
            raise
        if isinstance(outcome, Waiting):  # the model has not seen it
            self._note(lambda: self._quarantine.undo_alone(event, versions))
            return outcome
        self._quarantine.release(event, versions)
        self._beat()
        return outcome

    def _watched(self, events: Sequence[Input]) -> list[Outcome]:
        if not events:
            return []
        self._note(lambda: self._quarantine.take(events, self.versions()))
        self.in_hand = events
        try:
            return self._step.run(events)
        finally:
            self.in_hand = ()
            self._note(self._quarantine.put_down)

    def _note(self, write: Callable[[], None]) -> None:
        """Write a note; a model that is well needs none, so it does not wait for MongoDB."""
        try:
            write()
        except StoreUnavailable as exc:
            log.debug("what is in hand is not noted", error=str(exc))


class Watchdog:
    """Ends the process when its step has the same events in hand for too long."""

    def __init__(
        self,
        step: WatchedStep,
        quarantine: Quarantine,
        *,
        seconds: float,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """Keep what is needed.

        Args:
            step: What is watched.
            quarantine: Where an event that hangs alone is noted before the end.
            seconds: How long a step may take.
            end: Ends the process with an exit code.
        """
        self._step = step
        self._quarantine = quarantine
        self._seconds = seconds
        self._end = end
        self._tick = min(_TICK_SECONDS, seconds / 10)
        self._seen: Sequence[Input] = ()
        self._spent = 0.0
        self._last, self._refresh_at = time.monotonic(), 0.0
        self._follower = Follower(self._look, name="watchdog", seconds=self._tick, at_once=True)

    def start(self) -> None:
        """Watch until the process ends."""
        self._follower.start()

    def stop(self) -> None:
        """Watch no more."""
        self._follower.stop()

    def _look(self) -> None:
        now = time.monotonic()
        # A process that was itself stopped for a while must not take that for the model's time.
        self._spent += min(now - self._last, 2 * self._tick)
        self._last = now
        if self._step.in_hand is not self._seen:
            self._seen, self._spent = self._step.in_hand, 0.0
        if self._seen and self._spent > self._seconds:
            self._give_up(self._seen)
        if now >= self._refresh_at:
            self._refresh_at = now + _REFRESH_SECONDS
            self._refresh()

    def _give_up(self, events: Sequence[Input]) -> None:
        log.error("the model hangs; ending the process", events=len(events))
        try:
            if len(events) == 1:
                self._quarantine.mark_hanging(events[0], self._step.versions())
        except StoreUnavailable as exc:
            log.warning("the hanging event is not noted", error=str(exc))
        finally:  # whatever cannot be noted: it hangs
            self._end(HUNG)

    def _refresh(self) -> None:
        try:
            self._quarantine.refresh()
        except StoreUnavailable as exc:
            log.debug("quarantine not read", error=str(exc))
