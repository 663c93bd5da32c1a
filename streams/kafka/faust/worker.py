"""Faust around one handler: consume, hand batches over, acknowledge in order.

The pattern, and the settings in `application.py`, are those that lost nothing under SIGKILL: events
are taken without acknowledgement, a batch is acknowledged only after the broker has confirmed
everything made from it, and nothing leaves the loop by an exception except "restart me", which ends
the process.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from structlog import get_logger

from streams import metrics
from streams.contract.pipeline import dead_letter_topic, is_dead_letter_topic
from streams.errors import BrokerUnavailable, ProcessBroken, Unavailable
from streams.kafka.faust.ack_order import AckOrder
from streams.kafka.faust.application import Topic, build_app
from streams.kafka.faust.lag import Lag, count_waiting
from streams.kafka.faust.lists import ListConsumer
from streams.kafka.faust.overrides import Worker
from streams.kafka.records import Delivery, Handler, Message, Route
from streams.kafka.topics import shown, topic_name
from streams.settings import KafkaSettings, StageSettings

log = get_logger(__name__)

#: How long a batch of sends is repeated before the process ends and the batch is taken again.
_DELIVERY_SECONDS: Final = 60.0
#: Most of what a finished document costs is its share of a batch. So after a batch that was quick
#: the next one may be larger, and is given more time to fill if many records come. Not much more:
#: they may be documents that a slow model has to run for.
_QUICK_SECONDS: Final = 0.25
_MANY: Final = 8
_GROWTH: Final = 4
#: Most events taken and not acknowledged, most of them finished behind one that is held.
_MOST_UNACKED: Final = 8192


class StageWorker:
    """One Faust application: the consumer of one route."""

    def __init__(self, route: Route, kafka: KafkaSettings, settings: StageSettings) -> None:
        """Declare the application; nothing is connected yet."""
        self._route = route
        self._kafka = kafka
        self._settings = settings
        self.app = build_app(route.name, kafka)
        self._channels = {n: Topic(self.app, topic_name(n, kafka)) for n in _outputs(route)}
        self.has_assignment = False
        self.lag = Lag()
        self._next_offset: dict[Any, int] = {}
        self._order = AckOrder()
        #: One batch at a time; notified when one is finished.
        self._turn = asyncio.Condition()
        self.app.on_partitions_assigned.connect(self._on_assigned)
        self.app.on_partitions_revoked.connect(self._on_revoked)

    @property
    def has_broker(self) -> bool:
        """Whether the group's coordinator is known; it is not while the broker is away."""
        return bool(self.app.transport.has_coordinator)

    @property
    def waits_for(self) -> str:
        """What it needs of Kafka and has not; "" when it has everything."""
        if not self.has_assignment:
            return "joining the consumer group"
        if not self.has_broker:
            return "waits for the Kafka broker"
        leaderless = self.leaderless
        return f"waits for a broker that leads {shown(leaderless)}" if leaderless else ""

    @property
    def leaderless(self) -> list[str]:
        """Partitions of this process that no broker leads, so that nothing is read from them."""
        return self.app.transport.leaderless() if self.has_assignment else []

    def run(self, handler: Handler) -> None:
        """Consume until SIGTERM or SIGINT.

        Raises:
            SystemExit: Always; code 0 after a signal, another after a crash.
        """
        self._declare_agent(handler)
        self.app.timer(1.0)(lambda: self._measure_lag(handler))
        worker = Worker(
            self.app, stop=handler.stop, quiet=True, override_logging=False, redirect_stdouts=False
        )
        worker.execute_from_commandline()

    async def deliver(self, records: Delivery) -> list[int]:
        """Send records in order and wait until the broker has all of them.

        A failed send repeats the whole batch, so that the order within a document is kept. A record
        that is too large is left out: it would never get smaller. Returns the positions of these.

        Raises:
            BrokerUnavailable: It failed for a minute; the process is to end.
        """
        deadline = asyncio.get_running_loop().time() + _DELIVERY_SECONDS
        refused: set[int] = set()
        while True:
            errors = await self._send(records, refused)
            refused |= {i for i, e in errors.items() if isinstance(e, MessageSizeTooLargeError)}
            error = next((e for i, e in errors.items() if i not in refused), None)
            if error is None:
                return sorted(refused)
            metrics.RETRIES.labels(self._route.name, type(error).__name__).inc()
            if asyncio.get_running_loop().time() > deadline:
                msg = f"the broker took no records for {_DELIVERY_SECONDS:.0f} s: {error!r}"
                raise BrokerUnavailable(msg) from error
            await asyncio.sleep(self._settings.backoff_initial_seconds)

    async def _send(self, records: Delivery, refused: set[int]) -> dict[int, BaseException]:
        """Send all but the refused; return what went wrong by position."""
        futures = {}
        errors: dict[int, BaseException] = {}
        for i, (topic, record) in enumerate(records):
            if i in refused:
                continue
            try:
                futures[i] = await self._channels[topic].send(
                    key=record.key, value=record.value, headers=list(record.headers)
                )
            except (KafkaError, ProducerSendError) as exc:
                errors[i] = exc.__cause__ or exc  # Faust wraps what the client says at once
        results = await asyncio.gather(*futures.values(), return_exceptions=True)
        for i, result in zip(futures, results, strict=True):
            if isinstance(result, KafkaError):
                errors[i] = result
            elif isinstance(result, BaseException):
                raise result
        return errors

    def _declare_agent(self, handler: Handler) -> None:
        inputs = self.app.topic(
            *(topic_name(name, self._kafka) for name in self._route.inputs),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )

        async def consume(_: Any) -> None:  # the stream stays empty: records come in lists
            await self._consume(handler, self.app.consumer)

        self.app.agent(inputs, concurrency=1, name=self._route.name)(consume)

    async def _consume(self, handler: Handler, source: ListConsumer) -> None:
        """Handle batches for ever; acknowledge records in order, when finished, not before.

        Raises:
            Exception: A batch is not finished; the process is to end, so that it comes again.
        """
        size, wait = self._settings.batch_size, self._settings.batch_wait_seconds
        most, within, clock = size, wait, asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._go_on(handler, source))
            while True:
                events = await source.take(most, within=within)
                began = clock()
                await self._handle(handler, source, events)
                is_quick = clock() - began < _QUICK_SECONDS
                most = size * (_GROWTH if is_quick and len(events) >= size else 1)
                within = wait * (_GROWTH if is_quick and len(events) >= _MANY else 1)
                async with self._turn:
                    await self._turn.wait_for(lambda: len(self._order) < _MOST_UNACKED)

    async def _go_on(self, handler: Handler, source: ListConsumer) -> None:
        """Handle what was held as it becomes ready, also while no new event comes."""
        while True:
            await handler.until_ready()
            await asyncio.sleep(self._settings.batch_wait_seconds)  # others are ready soon
            await self._handle(handler, source, [])

    async def _handle(self, handler: Handler, source: ListConsumer, events: Sequence[Any]) -> None:
        async with self._turn:
            messages = [self._message(event) for event in events]
            for message, event in zip(messages, events, strict=True):
                self._order.take(message, event)
            try:
                finished = await handler.handle(messages)
            except Unavailable:
                if handler.is_stopping:
                    log.warning("stopping with an unfinished batch", stage=self._route.name)
                    _end(0)
                raise
            except ProcessBroken as exc:
                log.critical("this process ends to be restarted", reason=str(exc))
                _end(exc.exit_code)
            for event in self._order.finish(finished):
                source.ack(event)
                self._next_offset[event.tp] = event.offset + 1
            self._turn.notify_all()

    def _message(self, event: Any) -> Message:
        self._next_offset.setdefault(event.tp, event.offset)
        return Message(
            topic=event.topic.removeprefix(self._kafka.prefix),
            partition=event.partition,
            offset=event.offset,
            key=event.key,
            value=event.value,
            headers=event.headers,
        )

    async def _on_assigned(self, *_: Any, **__: Any) -> None:
        self.has_assignment = True
        self._next_offset.clear()

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self.has_assignment = False
        self.app.transport.skipped.clear()

    async def _measure_lag(self, handler: Handler) -> None:
        """Count what waits. Only a count of nothing says that there is nothing to do.

        What waits in a partition without a leader is unknown; waiting for one is on purpose.
        """
        handler.note_rebalance(is_under_way=self.app.rebalancing)
        lag = None
        leaderless = self.leaderless
        if self.has_assignment and not leaderless and not self.app.rebalancing:
            try:
                skipped = self.app.transport.skipped
                lag = await count_waiting(self.app.consumer, self._next_offset, skipped)
            except (KafkaError, ConsumerNotStarted, AssertionError) as exc:
                # Partitions are just coming or going; aiokafka asserts that they are there.
                log.debug("lag not measured", error=repr(exc))
        self.lag.note(lag)
        handler.note_lag(lag, may_rest=lag == 0 or bool(leaderless))


def _end(code: int) -> NoReturn:
    """End at once: the batch stays unacknowledged for the next process, Faust would wait for it."""
    sys.stderr.flush()
    os._exit(code)


def _outputs(route: Route) -> list[str]:
    # Where a record may be put back.
    inputs = [name for name in route.inputs if not is_dead_letter_topic(name)]
    letters = [dead_letter_topic(name) for name in inputs]
    return [*([route.output] if route.output else []), *inputs, *letters]
