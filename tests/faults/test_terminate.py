"""SIGTERM in the middle of work: a clean end, and the next process goes on where this one ended."""

import random
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
from kafka import KafkaConsumer, TopicPartition
from pydantic import SecretStr

from streams.capture.producer import publish_all
from streams.events import IMAGE_CHANGED, ImageChanged
from streams.kafka_security import client_arguments
from streams.local.ports import free_port
from streams.settings import ClipSettings, HttpSettings, StageSettings, child_environment
from streams.stages import FEATURIZE, SINK
from streams.topics import create_topics, group_name, topic_name
from streams.wire import encode_event
from tests.faults.load import picture
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

#: Enough for a signal to come in the middle, also on a slow machine.
DOCUMENTS = 800
BATCH = 4


@contextmanager
def running(stage, settings):
    """A process of a stage, and how many events it has finished so far."""
    port = free_port()
    own = settings.model_copy(update={"http": HttpSettings(port=port)})

    def finished():
        """None until it serves its endpoints."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return None
        name = "captionstream_documents_total{"
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)))

    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "run", stage.name],
        env=child_environment(own),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process, finished
    finally:
        process.kill()
        process.wait()


def acknowledged(stage, settings):
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


def test_process_that_waits_for_its_neighbours_ends_cleanly(settings):
    """Fails without the first handler in `run`."""
    away = settings.mongo.model_copy(update={"uri": SecretStr("mongodb://127.0.0.1:1")})
    with running(SINK, settings.model_copy(update={"mongo": away})) as (process, finished):
        wait_until(lambda: finished() is not None, doing="its endpoints")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.timeout(300)
def test_what_was_finished_before_sigterm_is_not_done_again(settings, mongo_client, tmp_path):
    """The first and the last of the chain; the loop around their steps is the same for all.

    Fails with `os._exit(0)` at the start of `_Worker.on_stop`: what was not committed comes again.
    """
    settings = settings.model_copy(
        update={
            "clip": ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random"),
            "stage": StageSettings(batch_size=BATCH, torch_threads=1, decode_workers=1),
        }
    )
    create_topics(settings.kafka)
    documents = mongo_client[settings.mongo.database][settings.mongo.collection]
    generator = random.Random(3)  # noqa: S311 - pictures, no secret
    documents.insert_many(
        [{"_id": number, "img": picture(generator)} for number in range(DOCUMENTS)]
    )
    now = mongo_client.admin.command("ping")["operationTime"]
    tenant = settings.mongo.tenant
    records = [
        encode_event(
            ImageChanged(document_id=number, source=now), event_type=IMAGE_CHANGED, tenant=tenant
        )
        for number in range(DOCUMENTS)
    ]
    publish_all([(IMAGE_CHANGED, record) for record in records], settings.kafka)

    for stage in (FEATURIZE, SINK):
        with running(stage, settings) as (process, finished):
            wait_until(
                lambda finished=finished: (finished() or 0) >= 10, doing="the first documents"
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        before = acknowledged(stage, settings.kafka)
        assert 10 <= before < DOCUMENTS
        with running(stage, settings) as (_, finished):
            wait_until(
                lambda stage=stage: acknowledged(stage, settings.kafka) == DOCUMENTS,
                doing="the rest",
                pause_seconds=0.3,
            )
            assert finished() <= DOCUMENTS - before + BATCH
    stored = "_outputs.img.clip.value"
    assert documents.count_documents({stored: {"$exists": True}}) == DOCUMENTS
