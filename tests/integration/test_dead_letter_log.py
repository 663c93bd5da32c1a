"""Dead letters are listed and replayed from a real broker."""

import json
from contextlib import closing

import pytest

from streams.cli import app
from streams.contract.dead_letters import dead_letter_record
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import OutputError
from streams.contract.events import DocumentChanged, Record
from streams.contract.ids import document_key
from streams.contract.pipeline import CHANGES, dead_letter_topic
from streams.contract.wire import encode_event
from streams.kafka.producer import publish_all
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from streams.mongo.client import cluster_time
from streams.operate.dead_letter_log import DeadLetterLog, Failure, Wanted
from tests.command_line import CommandLine


class Letters:
    """Sends dead letters of `clip`."""

    def __init__(self, settings, source):
        self._settings = settings
        self._source = source

    def send(self, *ids, reason="InvalidImage", message="wrong"):
        """One of each document, in this order."""
        changes = [DocumentChanged(document_id=id_, source=self._source) for id_ in ids]
        tenant = self._settings.mongo.tenant
        records = [encode_event(c, tenant=tenant) for c in changes]
        self.send_records(records, reason, message)

    def send_records(self, records, reason="InvalidImage", message="wrong"):
        error = OutputError(type=reason, message=message, attempts=1, is_retryable=False)
        about = {"stage": "clip", "topic": CHANGES, "position": "0:0", "model": "clip"}
        letters = [dead_letter_record(record, error=error, **about) for record in records]
        to = dead_letter_topic(CHANGES)
        publish_all([(to, letter) for letter in letters], self._settings.kafka)


@pytest.fixture
def letters(settings, client):
    create_topics(settings.kafka, DEFAULT)
    return Letters(settings, cluster_time(client))


@pytest.fixture
def log(settings):
    with closing(DeadLetterLog(settings.kafka, DEFAULT.topics)) as log:
        yield log


def documents(log, **wanted):
    return [json.loads(entry.document) for entry in log.entries(Wanted(**wanted))]


def test_same_failure_told_twice_is_one_entry_and_another_is_not(log, letters):
    """Fails without `cause`, or without `GROUP BY`."""
    letters.send("a", "b", "a")
    letters.send("a", message="something else")
    log.refresh()
    assert documents(log) == ["b", "a", "a"], "by the newest letter of each"
    assert log.count(Wanted()) == [(3, "clip", "InvalidImage")]
    assert [e.document for e in log.entries(Wanted(), most=1)] == ['"b"']


def test_only_what_is_new_is_read(log, letters, settings, monkeypatch):
    """Fails without `starts`: `verify` read every dead letter twice a second."""
    letters.send("a", "b")
    log.refresh()
    taken = []
    monkeypatch.setattr(log, "_take", lambda _, message: taken.append(message.key))
    letters.send("c")
    log.refresh()
    assert taken == [b'"c"']


def test_log_that_has_become_shorter_is_read_from_its_beginning(letters, settings):
    """Fails without `seek_to_beginning` in `_is_read`, where the broker has lost its log."""
    letters.send("a", "b")
    name = topic_name(dead_letter_topic(CHANGES), settings.kafka)
    starts = {(name, partition): 99 for partition in range(settings.kafka.partitions)}
    found = [message.key for _, message in read_topics([name], settings.kafka, starts=starts)]
    assert sorted(found) == [b'"a"', b'"b"']


def test_failures_that_letters_tell_of_are_known(log, letters, settings):
    letters.send(1)
    log.refresh()
    told = Failure(document_key(1).decode(), "clip", "InvalidImage", letters._source)
    assert log.reports(told)
    for other in ({"document": "2"}, {"model": ""}, {"type": "x"}, {"source": None}):
        assert not log.reports(told._replace(**other))


def test_replay_sends_what_is_wanted_and_nothing_else(
    letters, settings, published, monkeypatch, capsys
):
    """Fails without the marks, or without `chosen`."""
    letters.send(1, "b", 1, 3)
    letters.send("b", reason="ModelFailed")
    letters.send_records([Record(key=b"\xff", value=b"?", headers=[])])
    captionstream = CommandLine(app, monkeypatch, capsys, settings)

    def listed(*arguments):
        lines = captionstream("dead-letters", "list", "--json", *arguments).out.splitlines()
        return [(json.loads(line)["document"], json.loads(line)["reason"]) for line in lines]

    assert listed("--id", "1") == [(document_key(1).decode(), "InvalidImage")]
    assert len(listed()) == 5
    assert "1 dead letters replayed" in captionstream("dead-letters", "replay", "--id", "1").out
    assert published.of(1) == ["replay"]
    assert listed("--id", "1") == []
    done = captionstream("dead-letters", "replay", "--reason", "InvalidImage", "--stage", "clip")
    assert done.out == "3 dead letters replayed\n"
    assert listed() == [('"b"', "ModelFailed")]
    assert sorted(record.key for record in published.records())[-1] == b"\xff"
    line = captionstream("dead-letters", "list").out.splitlines()
    assert line[-1] == "1 dead letters: 1 x clip ModelFailed"
    assert (
        "1 dead letters replayed"
        in captionstream("dead-letters", "replay", "--id", line[0].split("  ")[0]).out
    )
    assert listed() == []
