"""What a stage has taken and not finished: what waits, and what may be acknowledged.

An event that waits for something (an image that is being fetched) holds up no work behind it. Yet
offsets are acknowledged in order, so it holds up their acknowledgement.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from streams.stages.outcome import Input, Ok, Result, Waiting
from streams.stages.records import Message


class Held:
    """Events that wait until something is done. Used on the event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._items: list[tuple[Message, Waiting]] = []
        self._is_ready = asyncio.Event()
        self._gives_up = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._items)

    def add(self, message: Message, waiting: Waiting) -> None:
        """Hold an event until it is ready."""
        loop = asyncio.get_running_loop()
        self._items.append((message, waiting))
        waiting.until.add_done_callback(lambda _: self._wake(loop))
        if self._gives_up:
            self._is_ready.set()

    def give_up(self, *, whether: bool) -> None:
        """Say whether events are put back instead of held: their partitions are to go."""
        self._gives_up = whether
        if whether and self._items:
            self._is_ready.set()

    def take(self) -> list[tuple[Message, Input | Ok]]:
        """Return those that are ready, each with the event to go on with, in the order of `add`."""
        self._is_ready.clear()
        taken: list[tuple[Message, Input | Ok]] = []
        kept: list[tuple[Message, Waiting]] = []
        for message, waiting in self._items:
            if waiting.until.done():
                taken.append((message, waiting.event))
            elif self._gives_up:
                taken.append((message, Ok(event=None, result=Result.POSTPONED)))
            else:
                kept.append((message, waiting))
        self._items = kept
        return taken

    async def until_ready(self) -> None:
        """Wait until `take` has something to return."""
        await self._is_ready.wait()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._is_ready.set)


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
