"""Records in lists: how they get from Faust's consumer to a stage.

Faust hands each record over by itself: some tasks, so that a rebalance can interrupt it, an event,
a place in a queue, sensors. That takes ten times what fetching does. Here what one fetch has
brought is handed over as a whole, under the same rules: nothing is taken while partitions come or
go, nor what was fetched before that, and whatever was taken is waited for.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import Consumer
from structlog import get_logger

log = get_logger(__name__)


class ListConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer; `take` returns records, which are acknowledged with `ack`."""

    _n_acked: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin with nothing fetched."""
        super().__init__(*args, **kwargs)
        #: One that waits is enough: the client fetches on meanwhile.
        self._lists: asyncio.Queue[list[Any]] = asyncio.Queue(1)
        self._waiting: deque[Any] = deque()

    async def take(self, most: int, *, within: float) -> list[Any]:
        """Wait for records, and return those that are there, in the order of their partitions.

        Where records keep coming, they are collected; what comes after a pause is returned at once.

        Args:
            most: At most so many.
            within: For so many seconds fewer are not returned.
        """
        until = asyncio.get_running_loop().time() + within
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    while len(self._waiting) < most:
                        self._waiting += await self._lists.get()
            if not self._waiting:
                self._waiting += await self._lists.get()
            while len(self._waiting) < most and not self._lists.empty():
                self._waiting += self._lists.get_nowait()
            taken = [
                message
                for message in (
                    self._waiting.popleft() for _ in range(min(most, len(self._waiting)))
                )
                if self._is_current(message)
            ]
            if taken:
                self._unacked_messages.update(taken)  # a rebalance waits for them
                return taken

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Look for nothing: the health of a stage is found by its progress."""

    def _is_current(self, message: Any) -> bool:
        """Whether it may be taken: others were fetched for an assignment that is over."""
        return bool(
            self.app.flow_control.is_active()
            and message.generation_id == self.app.consumer_generation_id
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand over what is fetched until the fetcher is stopped; in place of Faust's own."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001
                await asyncio.sleep(0)
                messages = await self._fetch()
                if not messages:
                    continue
                if self._n_acked >= self._commit_every:
                    self._n_acked = 0
                    await self.commit()
                await self.wait_first(self._hand_over(messages), self.suspend_flow.wait())
                for message in messages:
                    self._read_offset[message.tp] = message.offset
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise

    async def _hand_over(self, messages: list[Any]) -> None:
        await self.app.flow_control.acquire()
        await self._lists.put(messages)

    async def _fetch(self) -> list[Any]:
        """Return what the client has fetched of the partitions that are read."""
        records, active = await self._wait_next_records(1.0)
        if records is None or self.should_stop:
            return []
        if not self.flow_active:
            try:
                await self.perform_seek()
            except KafkaError as exc:
                log.warning("no position found while partitions come and go", error=repr(exc))
            return []
        return await self._unread(
            {tp: some for tp, some in records.items() if active is None or tp in active}
        )

    async def _unread(self, records: Mapping[Any, Sequence[Any]]) -> list[Any]:
        """Return records as messages, without those that were read before a seek."""
        messages = []
        for tp, some in records.items():
            read = self._read_offset[tp]
            for record in some:
                if read is not None and record.offset < read:
                    continue
                if read and record.offset > read + 1:
                    # What is not there, by a compacted log, is not waited for.
                    await self._add_gap(tp, read + 1, record.offset)
                read = record.offset
                messages.append(self._to_message(tp, record))
        return messages
