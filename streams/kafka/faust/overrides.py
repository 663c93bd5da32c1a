"""Where Faust and aiokafka must be bent, each with the reason; nothing else touches their insides.

- Records are handed over in lists, see `lists.py`.
- A fetch waits at the broker for as long as the settings say; Faust's own wait is 1.5 seconds. A
  broker that looks again only now and then (Tansu does twice in that time) would make every stage
  late.
- The first connection waits for a broker. The clients bear one that goes away later, but the
  process would end when it goes just as they start.
- A batch that aiokafka cannot read (another client gave a header a name that is not UTF-8) is left
  out. The error would end the process, again and again, as the batch comes first after every start.
- Faust makes no directories: they would hold tables, of which there are none.
- Whoever is asked to end is asked before Faust waits for what is in hand.

The versions of both libraries are pinned, and tests notice when a name changes.
"""

import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

import faust
import stamina
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Producer, Transport
from structlog import get_logger

from streams.kafka.faust.lists import ListConsumer

log = get_logger(__name__)

#: What aiokafka says of a partition that no broker leads; None is: not known yet.
_NOBODY: Final = -1

Skipped = dict[tuple[Any, int], int]
"""Offset behind records that were left out, by partition and first offset."""


class App(faust.App):  # type: ignore[misc]
    """Faust's application without directories."""

    def _create_directories(self) -> None:
        """Make none; the working directory may be closed to us."""


class Worker(faust.Worker):  # type: ignore[misc]
    """Faust's worker; says when the process is asked to end, so that the stage stops waiting."""

    def __init__(self, app: faust.App, *, stop: Callable[[], None], **options: Any) -> None:
        """Keep what to call when the process is asked to end."""
        super().__init__(app, **options)
        self.spinner = None  # it draws on stdout, also into files
        self._stop_waiting = stop

    async def on_stop(self) -> None:
        """Call it, before Faust waits for what is in hand."""
        # The loop gives signals back as it closes: a second one would end the process as a crash.
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        self._stop_waiting()
        await super().on_stop()


class _Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
    async def on_start(self) -> None:
        await super().on_start()
        # Nothing is fetched yet: it has no partitions.
        self._consumer._fetcher._records = _Fetched(self._skipped)  # noqa: SLF001

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Read when the consumer starts.
        consumer._fetch_max_wait_ms = int(transport.fetch_wait_seconds * 1000)  # noqa: SLF001
        _await_broker(consumer._client)  # noqa: SLF001
        transport.client = consumer
        self._skipped = transport.skipped
        return consumer


class _Consumer(ListConsumer):
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
    client.bootstrap = stamina.retry(
        on=KafkaConnectionError, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0
    )(client.bootstrap)


class _Fetched(OrderedDict[Any, Any]):
    """What the client has fetched and not yet given out, by partition.

    Takes the place of aiokafka's own, to leave out what cannot be read.
    """

    def __init__(self, skipped: Skipped) -> None:
        """Keep where to note what is left out."""
        super().__init__()
        self._skipped = skipped

    def __setitem__(self, partition: Any, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            records = fetched._partition_records  # noqa: SLF001 - read when the first is asked for
            records._records = _Batches(records._records, partition, self._skipped)  # noqa: SLF001
        super().__setitem__(partition, fetched)


class _Batches:
    """What a fetch has brought for a partition."""

    def __init__(self, records: Any, partition: Any, skipped: Skipped) -> None:
        self._records = records
        self._partition = partition
        self._skipped = skipped

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> "_Batch":
        return _Batch(self._records.next_batch(), self._partition, self._skipped)


class _Batch:
    """A batch that ends before the first record that cannot be read; nobody knows where it ends."""

    def __init__(self, batch: Any, partition: Any, skipped: Skipped) -> None:
        self._batch = batch
        self._partition = partition
        self._skipped = skipped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        begin = None
        try:
            for record in self._batch:
                begin = record.offset + 1
                yield record
        except UnicodeDecodeError as exc:
            if begin is None:
                begin = self._batch.base_offset
            end = self._batch.next_offset
            self._skipped[self._partition, begin] = end
            log.error(
                "records cannot be read, the rest of their batch is left out",
                topic=self._partition.topic,
                partition=self._partition.partition,
                offsets=f"{begin}-{end - 1}",
                error=str(exc),
            )
