"""Faust's way to Kafka, but for how a fetch waits, a start without a broker, and odd records.

Faust lets a fetch wait 1.5 seconds at the broker. Apache Kafka answers at once when a record comes;
a broker that looks again only now and then (Tansu does twice in that time) makes every stage late.

Its clients bear a broker that goes away later, but the process ends with an error when it goes just
as they start.

So it does when another client has written what aiokafka cannot read; see `unreadable.py`.
"""

import asyncio
from typing import Any, Final

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport
from structlog import get_logger

from streams.backoff import Backoff
from streams.kafka.faust.unreadable import Fetched, Skipped

log = get_logger(__name__)

#: What aiokafka says of a partition that no broker leads; None is: not known yet.
_NOBODY: Final = -1
_BACKOFF: Final = Backoff(0.2, 5.0)


class _Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
    async def on_start(self) -> None:
        await super().on_start()
        # Nothing is fetched yet: it has no partitions.
        self._consumer._fetcher._records = Fetched(self._skipped)  # noqa: SLF001

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Read when the consumer starts. The versions of both libraries are pinned, and a test
        # notices when this name changes.
        consumer._fetch_max_wait_ms = int(transport.fetch_wait_seconds * 1000)  # noqa: SLF001
        _await_broker(consumer._client)  # noqa: SLF001
        transport.client = consumer
        self._skipped = transport.skipped
        return consumer


class _Consumer(Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Producer(Producer):  # type: ignore[misc]
    def _new_producer(self) -> AIOKafkaProducer:
        producer = super()._new_producer()
        _await_broker(producer.client)
        return producer


class PromptTransport(Transport):  # type: ignore[misc]
    """Faust's transport; a fetch waits `fetch_wait_seconds` at the broker for a first record."""

    Consumer = _Consumer
    Producer = _Producer

    def __init__(self, app: faust.App, *, fetch_wait_seconds: float) -> None:
        """Make the transport of an application's consumers."""
        super().__init__(app.conf.broker_consumer, app)
        self.fetch_wait_seconds = fetch_wait_seconds
        self.client: AIOKafkaConsumer | None = None
        #: What no stage will ever see.
        self.skipped: Skipped = {}

    @property
    def has_coordinator(self) -> bool:
        """Whether the consumer knows a broker that coordinates its group."""
        coordinator = self.client._coordinator if self.client is not None else None  # noqa: SLF001
        return coordinator is not None and coordinator.coordinator_id is not None

    def leaderless(self) -> list[str]:
        """Return the assigned partitions, as `topic[number]`, that no broker leads.

        The consumer asks for a leader again and again while there is none.
        """
        if self.client is None:
            return []
        leader = self.client._client.cluster.leader_for_partition  # noqa: SLF001
        assigned = sorted(self.client.assignment())
        return [f"{tp.topic}[{tp.partition}]" for tp in assigned if leader(tp) == _NOBODY]


def _await_broker(client: AIOKafkaClient) -> None:
    """Let the client's first connection wait for a broker."""
    bootstrap = client.bootstrap

    async def insist() -> None:
        attempt = 0
        while True:
            try:
                await bootstrap()
            except KafkaConnectionError as exc:
                attempt += 1
                log.warning("waiting for the broker", error=str(exc))
                await asyncio.sleep(_BACKOFF.jittered(attempt))
            else:
                return

    client.bootstrap = insist
