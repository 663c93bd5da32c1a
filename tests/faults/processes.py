"""One process of the pipeline, as `captionstream run` starts it, and what it has done."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from bson.timestamp import Timestamp
from kafka import KafkaConsumer, TopicPartition
from pymongo import MongoClient

from streams.contract.documents import Output
from streams.contract.events import ModelApplied, Origin, Record
from streams.contract.wire import encode_event
from streams.kafka.producer import EventProducer
from streams.kafka.security import client_arguments
from streams.kafka.topics import group_name, topic_name
from streams.settings import HttpSettings, KafkaSettings, Settings, child_environment
from streams.stages import StageSpec
from tests.pipelines import CLIP
from tests.ports import free_port

#: Events that a process has finished.
DONE = "captionstream_documents_total"
#: Age of the batch in hand, measured every second.
OLDEST = "captionstream_oldest_unacknowledged_seconds"
_PRIMARY_STEPPED_DOWN = 189


class Process(subprocess.Popen):
    """A running process; its metrics can be asked for."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.port = free_port()
        own = settings.model_copy(update={"http": HttpSettings(port=self.port)})
        super().__init__(
            [sys.executable, "-m", "streams.cli", "run", name],
            env=child_environment(own),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def metric(self, name: str) -> float | None:
        """Return the sum of a metric over its labels; None until it serves its endpoints."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return None
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@contextmanager
def running(name: str, settings: Settings) -> Iterator[Process]:
    """A process, killed at the end of the context if it is still there."""
    with Process(name, settings) as process:
        try:
            yield process
        finally:
            process.kill()


def publish(topic: str, records: Iterable[Record], settings: KafkaSettings) -> None:
    """Send many records together."""
    producer = EventProducer(settings)
    try:
        producer.publish(topic, records)
    finally:
        producer.close()


def featurized(document_id: int, source: Timestamp, tenant: str) -> Record:
    """Return what tells the sink of a document's embedding, by the version c1."""
    output = Output(value=np.ones(4, np.float32), version="c1", inputs={"img": "x"})
    event = ModelApplied(
        document_id=document_id,
        source=source,
        origin=Origin.LIVE,
        model=CLIP.name,
        outputs={CLIP.name: output},
    )
    return encode_event(event, tenant=tenant)


@contextmanager
def refused_writes(client: MongoClient, settings: Settings) -> Iterator[None]:
    """No output is written, as when there is no primary: every batch stays in hand."""
    data = {
        "failCommands": ["update"],
        "appName": "captionstream",
        "namespace": settings.mongo.tenant,
        "errorCode": _PRIMARY_STEPPED_DOWN,
    }
    command = {"configureFailPoint": "failCommand"}
    client.admin.command({**command, "mode": "alwaysOn", "data": data})
    try:
        yield
    finally:
        client.admin.command({**command, "mode": "off"})


def acknowledged(stage: StageSpec, settings: KafkaSettings) -> int:
    """Return how many records the group of a stage has acknowledged."""
    consumer = KafkaConsumer(
        **client_arguments(settings), group_id=group_name(stage.name, settings)
    )
    try:
        partitions = [
            TopicPartition(name, number)
            for name in (topic_name(topic, settings) for topic in stage.inputs)
            for number in consumer.partitions_for_topic(name)
        ]
        return sum(consumer.committed(partition) or 0 for partition in partitions)
    finally:
        consumer.close()
