"""Listing and replaying dead letters: reads the dead-letter topics without joining a group."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

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
from streams.kafka_security import client_arguments
from streams.settings import KafkaSettings, Settings
from streams.topics import TOPICS, dead_letter_topic, topic_name
from streams.wire import decode_event, encode_event

_READ_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A dead letter as it stands in its topic.

    Attributes:
        letter: Why it was given up.
        record: The record that was given up.
        position: `partition:offset` of the dead letter in its topic.
    """

    letter: DeadLetter
    record: Record
    position: str

    @property
    def id(self) -> str:
        """Name of this dead letter for a command's arguments."""
        return f"{self.letter.topic}:{self.position}"


def list_dead_letters(settings: KafkaSettings) -> list[Entry]:
    """Return every dead letter that was not replayed, oldest first.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    entries: list[Entry] = []
    try:
        for topic in TOPICS:
            entries.extend(_read_topic(topic, settings))
    except (KafkaError, OSError) as exc:
        msg = f"cannot read dead letters from {settings.bootstrap_servers}: {exc}"
        raise BrokerUnavailable(msg) from exc
    return sorted(entries, key=lambda entry: entry.letter.at)


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
                replay_mark(entry.position, entry.record.key),
            )
            for entry in entries
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


def _read_topic(topic: str, settings: KafkaSettings) -> list[Entry]:
    found: dict[str, Entry] = {}
    for position, message in read_topic(topic_name(dead_letter_topic(topic), settings), settings):
        headers = list(message.headers or ())
        replayed = replayed_position(headers)
        if replayed is not None:
            found.pop(replayed, None)
            continue
        try:
            letter = parse_dead_letter(message.key, headers)
        except InvalidEvent:
            continue
        record = Record(
            key=message.key or b"", value=message.value, headers=original_headers(headers)
        )
        found[position] = Entry(
            letter=replace(letter, topic=topic), record=record, position=position
        )
    return list(found.values())


def read_topic(topic: str, settings: KafkaSettings) -> Iterator[tuple[str, Any]]:
    """Yield each record of a topic with its `partition:offset`, up to the high watermark of now."""
    consumer = KafkaConsumer(**client_arguments(settings), enable_auto_commit=False)
    try:
        numbers = consumer.partitions_for_topic(topic) or set()
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        waiting = set(partitions)
        deadline = time.monotonic() + _READ_SECONDS
        while waiting:
            if time.monotonic() > deadline:
                msg = f"{topic} could not be read to its end in {_READ_SECONDS:.0f} s"
                raise BrokerUnavailable(msg)
            for messages in consumer.poll(timeout_ms=200).values():
                for message in messages:
                    yield f"{message.partition}:{message.offset}", message
            # Fetches carry the right high watermark; asking for LATEST does not everywhere.
            waiting = {part for part in waiting if not _is_read(consumer, part)}
    finally:
        consumer.close()


def _is_read(consumer: KafkaConsumer, partition: TopicPartition) -> bool:
    end = consumer.highwater(partition)
    return end is not None and consumer.position(partition) >= end
