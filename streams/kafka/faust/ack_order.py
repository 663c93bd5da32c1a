"""Offsets are acknowledged in order, also where a record behind others is finished first."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from streams.kafka.records import Message


class AckOrder:
    """Events in the order in which they were taken. Says which may be acknowledged."""

    def __init__(self) -> None:
        """Begin with none."""
        self._taken: dict[tuple[str, int], deque[tuple[Message, Any]]] = {}
        self._finished: set[tuple[str, int, int]] = set()

    def __len__(self) -> int:
        """How many are taken and not acknowledged."""
        return sum(len(events) for events in self._taken.values())

    def take(self, message: Message, event: Any) -> None:
        """Note that an event was taken, which is `message` for the stage."""
        events = self._taken.setdefault((message.topic, message.partition), deque())
        events.append((message, event))

    def finish(self, messages: Sequence[Message]) -> list[Any]:
        """Return the events to acknowledge now that these are finished, in order.

        Of each partition those before the first that is not finished.
        """
        self._finished |= {_place(message) for message in messages}
        done = []
        for events in self._taken.values():
            while events and _place(events[0][0]) in self._finished:
                message, event = events.popleft()
                self._finished.discard(_place(message))
                done.append(event)
        return done


def _place(message: Message) -> tuple[str, int, int]:
    return (message.topic, message.partition, message.offset)
