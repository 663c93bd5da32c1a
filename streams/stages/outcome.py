"""What a step says about one event, and what a step is."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from streams.contract.dead_letters import DeadLetter
from streams.contract.events import Event
from streams.errors import CaptionstreamError

Input = Event | DeadLetter


class Result(StrEnum):
    """How an event was finished; the label `outcome` of the metric."""

    DONE = "done"  # the model was applied, or the output was written
    REUSED = "reused"  # a stored output was still right, no model ran
    DELETED = "deleted"  # the document is gone
    AWAITING_MODEL = "awaiting_model"  # no version serves yet that reads these features
    IGNORED = "ignored"  # there is nothing to do for this stage
    FAILED = "failed"  # dead-lettered
    SUPERSEDED = "superseded"  # a newer event about the same document is in the same batch
    POSTPONED = "postponed"  # put back at the end of its topic, to be tried later


@dataclass(frozen=True, kw_only=True, slots=True)
class Ok:
    """The event is finished.

    Attributes:
        event: What to send on; None for nothing.
        result: How it was finished.
    """

    event: Event | None
    result: Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The event cannot be finished.

    Attributes:
        error: What happened; says whether another attempt can help.
        attempts: How often it was tried.
        version: Version of the model that was tried, "" when none was.
    """

    error: CaptionstreamError
    attempts: int = 1
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """The event is not finished, and holds up no other: what it needs is on its way.

    Attributes:
        event: What the step is to be given when it is there; knows what was begun.
        until: Done when it is there.
    """

    event: Event
    until: Future[Any]


Outcome = Ok | Failed | Waiting


class Step(Protocol):
    """What a stage does with a batch. Runs in the stage's worker thread."""

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event, in the same order.

        Raises:
            Unavailable: A neighbour is away; the stage waits and calls again.
            Exception: The stage halves the batch until it has found the event that causes it.
        """
        ...

    def self_test(self) -> bool:
        """Whether the step's model computes what it should on an input of its own."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Return the version of each model that serves, by name."""
        ...
