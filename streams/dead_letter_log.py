"""Listing and replaying dead letters: reads the dead-letter topics without joining a group."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError
from structlog import get_logger

from streams.capture.producer import publish_all
from streams.dead_letters import (
    DeadLetter,
    original_headers,
    parse_dead_letter,
    replay_mark,
    replayed_position,
)
from streams.errors import BrokerUnavailable, InvalidEvent
from streams.events import ImageChanged, Origin, Record
from streams.ids import document_key
from streams.kafka_clients import open_client
from streams.kafka_security import broker_unavailable
from streams.settings import KafkaSettings, Settings
from streams.topics import TOPICS, dead_letter_topic, topic_name
from streams.wire import decode_event, encode_event

log = get_logger(__name__)

_READ_SECONDS: Final = 60.0
_FETCH_WAIT_MS: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One cause of failure, as its dead letters tell it.

    A record that is delivered twice, or a document that is published again, may be given up twice
    for the same cause; that is one entry.

    Attributes:
        letter: Why it was given up; the newest of its letters.
        record: The record that was given up.
        positions: `partition:offset` of every letter in its topic, the newest last.
    """

    letter: DeadLetter
    record: Record
    positions: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of this dead letter for a command's arguments."""
        return f"{self.letter.topic}:{self.positions[-1]}"


def list_dead_letters(settings: KafkaSettings) -> list[Entry]:
    """Return every dead letter that was not replayed, one for each cause, oldest first.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    entries = merge_causes(read_dead_letters(settings))
    return sorted(entries, key=lambda entry: entry.letter.at)


def read_dead_letters(settings: KafkaSettings) -> list[Entry]:
    """Return every dead letter that was not replayed, each by itself.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    topics = {topic_name(dead_letter_topic(topic), settings): topic for topic in TOPICS}
    found: dict[tuple[str, str], Entry] = {}
    for position, message in read_topics(list(topics), settings):
        topic = topics[message.topic]
        replayed = replayed_position(list(message.headers or ()))
        if replayed is not None:
            found.pop((topic, replayed), None)
            continue
        entry = _entry(topic, position, message)
        if entry is not None:
            found[topic, position] = entry
    return list(found.values())


def replay(entries: Sequence[Entry], settings: Settings) -> int:
    """Send the records of dead letters to their topics again; return how many.

    At-least-once: after a crash in between, an entry may be replayed and still be listed.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    tenant = settings.mongo.tenant
    publish_all(
        [(entry.letter.topic, _again(entry.record, tenant)) for entry in entries], settings.kafka
    )
    publish_all(
        [
            (
                dead_letter_topic(entry.letter.topic),
                replay_mark(position, entry.record.key),
            )
            for entry in entries
            for position in entry.positions
        ],
        settings.kafka,
    )
    return len(entries)


def _again(record: Record, tenant: str) -> Record:
    """Mark a change as replayed, so that its age is not taken for the pipeline's latency."""
    try:
        event = decode_event(record.key, record.value, record.headers, tenant=tenant)
    except InvalidEvent:
        return record
    if not isinstance(event, ImageChanged):
        return record
    return encode_event(replace(event, origin=Origin.REPLAY), event_type=TOPICS[0], tenant=tenant)


def _entry(topic: str, position: str, message: Any) -> Entry | None:
    """Return what a record of a dead-letter topic says; None when it is no dead letter."""
    headers = list(message.headers or ())
    try:
        letter = parse_dead_letter(message.key, headers)
    except InvalidEvent:
        return None
    return Entry(
        letter=replace(letter, topic=topic),
        record=Record(
            key=message.key or b"", value=message.value, headers=original_headers(headers)
        ),
        positions=(position,),
    )


def merge_causes(entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry for each cause: a document, a stage and what went wrong there."""
    merged: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        cause = _cause(entry.letter)
        before = merged.pop(cause, None)
        positions = (*(before.positions if before else ()), *entry.positions)
        merged[cause] = replace(entry, positions=positions)
    return list(merged.values())


def _cause(letter: DeadLetter) -> tuple[str, ...]:
    """A record that is about no document is a cause of its own."""
    try:
        about = document_key(letter.document_id).decode()
    except InvalidEvent:
        about = f"record {letter.position}"
    return (letter.topic, letter.stage, about, letter.error.type, letter.error.message)


def read_topics(topics: Sequence[str], settings: KafkaSettings) -> Iterator[tuple[str, Any]]:
    """Yield each record of topics with its `partition:offset`, up to the high watermarks of now.

    The records of one partition come in order. What another client has written and ours cannot read
    is left out.

    Raises:
        BrokerUnavailable: No broker answers, or it took longer than a minute.
    """
    consumer = open_client(
        KafkaConsumer, settings, enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS
    )
    try:
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        if not partitions:  # no such topics yet, so nothing in them
            return
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        deadline = time.monotonic() + _READ_SECONDS
        try:
            yield from _read(consumer, partitions, deadline)
        except CorruptRecordError:
            # Nobody tells whose record it was: each partition goes on by itself.
            rest = [part for part in partitions if not _is_read(consumer, part)]
            for part, begin in [(part, consumer.position(part)) for part in rest]:
                consumer.assign([])
                consumer.poll()  # forgets what it was about to read, else it would look for ever
                consumer.assign([part])
                consumer.seek(part, begin)
                yield from _read(consumer, [part], deadline)
    except KafkaError as exc:
        raise broker_unavailable(settings, exc) from exc
    finally:
        consumer.close()


def _read(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition], deadline: float
) -> Iterator[tuple[str, Any]]:
    """Yield what stands in the assigned partitions behind their positions.

    Raises:
        BrokerUnavailable: It is not read at the deadline.
        CorruptRecordError: A record of one of several partitions cannot be read.
    """
    waiting = set(partitions)
    while waiting:
        if time.monotonic() > deadline:
            topics = ", ".join(sorted({part.topic for part in partitions}))
            msg = f"{topics} could not be read to the end in {_READ_SECONDS:.0f} s"
            raise BrokerUnavailable(msg)
        for message in _poll(consumer, partitions):
            yield f"{message.partition}:{message.offset}", message
        # Fetches carry the right high watermark; asking for LATEST does not everywhere.
        waiting = {part for part in waiting if not _is_read(consumer, part)}


def _poll(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> list[Any]:
    """Return the next records; step over one that cannot be read, if it is clear where it stands.

    The rest of its batch cannot be read either, and is stepped over one by one.
    """
    try:
        polled = consumer.poll(timeout_ms=200)
    except CorruptRecordError as exc:
        if len(partitions) > 1:
            raise
        (part,) = partitions
        position = consumer.position(part)
        log.error(
            "a record cannot be read, it is left out",
            topic=part.topic,
            position=f"{part.partition}:{position}",
            error=str(exc),
        )
        consumer.seek(part, position + 1)
        return []
    return [message for messages in polled.values() for message in messages]


def _is_read(consumer: KafkaConsumer, partition: TopicPartition) -> bool:
    end = consumer.highwater(partition)
    return end is not None and consumer.position(partition) >= end
