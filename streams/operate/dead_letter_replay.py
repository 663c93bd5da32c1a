"""Replaying dead letters: their records go to their topics again, a piece at a time."""

from collections.abc import Iterator
from typing import Final

from streams.contract.dead_letters import original_headers, replay_mark, replay_record
from streams.contract.events import Record
from streams.contract.pipeline import dead_letter_topic
from streams.kafka.producer import EventProducer
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import topic_name
from streams.operate.dead_letter_log import DeadLetterLog, Wanted
from streams.settings import Settings

#: Records in hand at once, and their bytes.
_PIECE: Final = 500
_PIECE_BYTES: Final = 8 * 1024 * 1024

Letter = tuple[bytes, Record]
"""A cause, and the record that is to be sent for it."""


def replay(log: DeadLetterLog, wanted: Wanted, settings: Settings) -> int:
    """Send the records of dead letters to their topics again; return how many.

    At-least-once: after a crash in between, an entry may be replayed and still be listed. A record
    that is too large for Kafka stays listed.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    starts = log.choose(wanted)
    replayed = 0
    producer = EventProducer(settings.kafka)
    try:
        for topic in log.topics:
            name = topic_name(dead_letter_topic(topic), settings.kafka)
            mine = {part: first for part, first in starts.items() if part[0] == name}
            for piece in _pieces(log, topic, mine, settings) if mine else ():
                refused = producer.publish(topic, [record for _, record in piece])
                done = [letter for i, letter in enumerate(piece) if i not in refused]
                producer.publish(dead_letter_topic(topic), _marks(log, done))
                replayed += len(done)
    finally:
        producer.close()
    return replayed


def _pieces(
    log: DeadLetterLog, topic: str, starts: dict[tuple[str, int], int], settings: Settings
) -> Iterator[list[Letter]]:
    """Yield the chosen letters of one topic's records, in the order of their partitions."""
    tenant = settings.mongo.tenant
    name = topic_name(dead_letter_topic(topic), settings.kafka)
    piece: list[Letter] = []
    size = 0
    for _, message in read_topics([name], settings.kafka, starts=starts):
        cause = log.cause_of(message)
        if cause is None:
            continue
        headers = original_headers(list(message.headers or ()))
        record = Record(key=message.key or b"", value=message.value, headers=headers)
        piece.append((cause, replay_record(record, tenant=tenant)))
        size += len(message.value or b"")
        if len(piece) >= _PIECE or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _marks(log: DeadLetterLog, letters: list[Letter]) -> Iterator[Record]:
    for cause, record in letters:
        for position in log.letters_of(cause):
            yield replay_mark(position, record.key)
