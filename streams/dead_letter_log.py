"""Listing and replaying dead letters: reads the dead-letter topics without joining a group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streams.capture.producer import publish_all
from streams.dead_letters import (
    DeadLetter,
    original_headers,
    parse_dead_letter,
    replay_mark,
    replay_record,
    replayed_position,
)
from streams.errors import InvalidEvent
from streams.events import Record
from streams.ids import document_key
from streams.settings import KafkaSettings, Settings
from streams.topic_log import read_topics
from streams.topics import TOPICS, dead_letter_topic, topic_name


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
        [
            (
                entry.letter.topic,
                replay_record(entry.record, topic=entry.letter.topic, tenant=tenant),
            )
            for entry in entries
        ],
        settings.kafka,
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
