"""Events that a stage has taken and that wait for something, such as an image that is fetched.

They hold up no work behind them, only its acknowledgement: see `kafka/faust/ack_order.py`.
"""

import asyncio
from contextlib import suppress

from streams.kafka.records import Message
from streams.stages.outcome import Input, Ok, Result, Waiting


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
