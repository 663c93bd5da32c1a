"""What the dead-letter topics hold, however much that is: read once, kept in a temporary file.

A mark says of an earlier letter that it was replayed, so the last record may decide about the
first. So all are read before one is shown; memory stays the same. No group is joined.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from bson.timestamp import Timestamp

from streams.contract.dead_letters import DeadLetter, parse_dead_letter, replayed_position
from streams.contract.ids import document_key
from streams.contract.pipeline import dead_letter_topic
from streams.errors import InvalidEvent, SettingsError
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import topic_name
from streams.settings import KafkaSettings

_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -16384;
PRAGMA temp_store = FILE;
CREATE TABLE letters (
  topic TEXT, partition INTEGER, position INTEGER, cause BLOB, document TEXT, stage TEXT,
  model TEXT, reason TEXT, message TEXT, attempts INTEGER, at TEXT,
  seconds INTEGER, increment INTEGER,
  PRIMARY KEY (topic, partition, position)
) WITHOUT ROWID;
CREATE INDEX by_cause ON letters (cause);
CREATE INDEX by_document ON letters (document);
CREATE TABLE chosen (
  topic TEXT, partition INTEGER, position INTEGER, cause BLOB,
  PRIMARY KEY (topic, partition, position)
) WITHOUT ROWID;
"""
_WANTED: Final = """
FROM letters WHERE (:stage IS NULL OR stage = :stage) AND (:reason IS NULL OR reason = :reason)
AND (:letter IS NULL OR document IN (SELECT value FROM json_each(:documents)) OR cause IN
  (SELECT cause FROM letters WHERE topic || ':' || partition || ':' || position = :letter))
"""
#: Letters of one cause are one entry, which the newest of them stands for.
_ENTRIES: Final = f"""
SELECT topic || ':' || partition || ':' || position, document, stage, reason, attempts, max(at),
  message {_WANTED} GROUP BY cause ORDER BY max(at) LIMIT :most
"""
_COUNTS: Final = f"""
SELECT count(DISTINCT cause) AS n, stage, reason {_WANTED}
GROUP BY stage, reason ORDER BY n DESC, stage, reason
"""
_CHOOSE: Final = f"""
INSERT INTO chosen SELECT topic, partition, position, cause FROM
  (SELECT topic, partition, position, cause, max(at) {_WANTED} GROUP BY cause)
"""  # noqa: S608 - made of constants
_KEEP: Final = "INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPORTED: Final = """
SELECT 1 FROM letters WHERE document = ? AND model = ? AND reason = ? AND seconds IS ?
AND increment IS ?
"""


class Failure(NamedTuple):
    """One failure of one document, as a dead letter or the document reports it."""

    document: str
    model: str
    type: str
    source: Timestamp | None


class Entry(NamedTuple):
    """One cause of failure, as the newest of its dead letters says.

    A record that is delivered twice, or a document that is published again, may be given up twice
    for the same cause; that is one entry.

    Attributes:
        id: `topic:partition:offset` of that letter; the topic is that of the record, no prefix.
        document: Canonical extended JSON of the document's `_id`, or which record it is about.
        stage: Stage that gave up.
        reason: Type of the error.
        attempts: How often it was tried.
        at: When, ISO 8601 in UTC.
        message: What the error says.
    """

    id: str
    document: str
    stage: str
    reason: str
    attempts: int
    at: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which entries are asked for: those for which everything holds that is given.

    Attributes:
        stage: Of this stage.
        reason: With this type of error.
        letter: With this id; or
        documents: about one of these, canonical extended JSON; only together with `letter`.
    """

    stage: str | None = None
    reason: str | None = None
    letter: str | None = None
    documents: Sequence[str] = ()

    def values(self, **more: Any) -> dict[str, Any]:
        """Return the values of the queries' names."""
        return {**asdict(self), "documents": json.dumps(list(self.documents)), **more}


class DeadLetterLog:
    """The dead letters that were not replayed, as of the last `refresh`; to be closed."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str]) -> None:
        """Begin empty; `topics` are those of the pipeline, without prefix."""
        self._settings = settings
        self.topics = topics
        self._topics = {topic_name(dead_letter_topic(t), settings): t for t in topics}
        #: How many records could not be read, and why the last of them.
        self.unread = (0, "")
        #: Offset of the next record to read, by topic and partition on the broker.
        self._next: dict[tuple[str, int], int] = {}
        # Without a name it is a file that nobody sees, and that goes with the connection.
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.executescript(_SCHEMA)

    def close(self) -> None:
        """Remove the file."""
        self._rows.close()

    def refresh(self) -> None:
        """Read what was written since the last time.

        Raises:
            BrokerUnavailable: The broker does not answer.
            SettingsError: There is no room for the temporary file.
        """
        with _room():
            self._rows.execute("BEGIN")
            try:
                for position, message in read_topics(
                    list(self._topics), self._settings, starts=self._next
                ):
                    self._take(position, message)
                    self._next[message.topic, message.partition] = message.offset + 1
            finally:
                self._rows.execute("COMMIT")

    def entries(self, wanted: Wanted, *, most: int = -1) -> Iterator[Entry]:
        """Yield one entry for each cause, oldest first; the first `most` of them if it is given."""
        with _room():
            for row in self._rows.execute(_ENTRIES, wanted.values(most=most)):
                yield Entry(*row)

    def count(self, wanted: Wanted) -> list[tuple[int, str, str]]:
        """Return how many entries there are of each stage and reason, most first."""
        with _room():
            return self._rows.execute(_COUNTS, wanted.values()).fetchall()

    def choose(self, wanted: Wanted) -> dict[tuple[str, int], int]:
        """Choose the newest letter of each cause for `cause_of`.

        Returns:
            Offset of the first one chosen, by dead-letter topic on the broker and partition.
        """
        names = {topic: name for name, topic in self._topics.items()}
        first = "SELECT topic, partition, min(position) FROM chosen GROUP BY topic, partition"
        with _room():
            self._rows.execute("DELETE FROM chosen")
            self._rows.execute(_CHOOSE, wanted.values())
            rows = self._rows.execute(first).fetchall()
        return {(names[topic], partition): position for topic, partition, position in rows}

    def cause_of(self, message: Any) -> bytes | None:
        """Return the cause of a record on a dead-letter topic; None if it is not chosen."""
        query = "SELECT cause FROM chosen WHERE topic = ? AND partition = ? AND position = ?"
        values = [self._topics[message.topic], message.partition, message.offset]
        row = self._rows.execute(query, values).fetchone()
        return None if row is None else bytes(row[0])

    def letters_of(self, cause: bytes) -> Iterator[str]:
        """Yield the position of every letter of a cause, on its dead-letter topic."""
        query = "SELECT partition || ':' || position FROM letters WHERE cause = ?"
        for (position,) in self._rows.execute(query, [cause]):
            yield position

    def reports(self, failure: Failure) -> bool:
        """Whether one of them is about this failure."""
        values = (failure.document, failure.model, failure.type, *_parts(failure.source))
        return self._rows.execute(_REPORTED, values).fetchone() is not None

    def _take(self, position: str, message: Any) -> None:
        """Keep one record of a dead-letter topic, or do what the mark says that it is."""
        topic = self._topics[message.topic]
        headers = list(message.headers or ())
        replayed = replayed_position(headers)
        if replayed is not None:
            partition, _, offset = replayed.partition(":")
            if partition.isdecimal() and offset.isdecimal():
                query = "DELETE FROM letters WHERE topic = ? AND partition = ? AND position = ?"
                self._rows.execute(query, [topic, int(partition), int(offset)])
            return
        try:
            letter = parse_dead_letter(message.key, headers)
        except InvalidEvent as exc:
            self.unread = (self.unread[0] + 1, str(exc))
            return
        document = _document(letter)
        error = letter.error
        cause = repr((topic, letter.stage, document, error.type, error.message))
        row = [topic, message.partition, message.offset, _digest(cause), document, letter.stage]
        row += [letter.model, error.type, error.message, error.attempts]
        row += [letter.at.isoformat(timespec="microseconds"), *_parts(letter.source)]
        self._rows.execute(_KEEP, row)


def _document(letter: DeadLetter) -> str:
    """A record that is about no document is a cause of its own."""
    try:
        return document_key(letter.document_id).decode()
    except InvalidEvent:
        return f"record {letter.position}"


def _digest(cause: str) -> bytes:
    return hashlib.blake2b(cause.encode(), digest_size=16).digest()


def _parts(source: Timestamp | None) -> tuple[int | None, int | None]:
    return (None, None) if source is None else (source.time, source.inc)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        msg = (
            f"the dead letters cannot be kept in the directory for temporary files ({exc}): make"
            " room there, or set TMPDIR to one with more"
        )
        raise SettingsError(msg) from exc
