"""Processes of one stage that come and go."""

import itertools
import signal
from contextlib import ExitStack

import numpy as np
import pytest

from streams.documents import Output
from streams.events import IMAGE_FEATURIZED, ModelApplied, Origin
from streams.stages import SINK
from streams.topics import create_topics
from streams.wire import encode_event
from tests.faults.processes import DONE, acknowledged, held_writes, publish, running
from tests.waiting import wait_until

DOCUMENTS, TOGETHER, LEAVES = 4000, 3, 3
VECTOR = np.ones(4, np.float32)


def records(settings, source):
    """One embedding for each document, as `featurize` sends it."""
    output = {"clip": Output(value=VECTOR, version="v1")}
    for number in range(DOCUMENTS):
        event = ModelApplied(
            document_id=number,
            source=source,
            origin=Origin.LIVE,
            input="ab",
            model="clip",
            outputs=output,
        )
        yield encode_event(event, event_type=IMAGE_FEATURIZED, tenant=settings.mongo.tenant)


@pytest.mark.timeout(300)
def test_processes_that_join_and_leave_lose_nothing(settings, mongo_client):
    """Three at a time, under load; each has worked before it leaves, every other by SIGKILL.

    Fails with `stream.ack` before `stage.handle` in `StageWorker`.
    """
    kafka = settings.kafka.model_copy(update={"session_timeout_seconds": 3.0, "partitions": 3})
    settings = settings.model_copy(update={"kafka": kafka})
    create_topics(kafka)
    documents = mongo_client[settings.mongo.database][settings.mongo.collection]
    documents.insert_many([{"_id": number} for number in range(DOCUMENTS)])
    now = mongo_client.admin.command("ping")["operationTime"]
    publish(IMAGE_FEATURIZED, records(settings, now), kafka)

    how = itertools.cycle([signal.SIGKILL, signal.SIGTERM])
    with ExitStack() as stack:

        def join():
            return stack.enter_context(running(SINK.name, settings))

        with held_writes(mongo_client, settings, 1000):
            members = [join() for _ in range(TOGETHER)]
            for _ in range(LEAVES):
                oldest = members.pop(0)
                wait_until(lambda p=oldest: p.metric(DONE), doing="the oldest to have worked")
                number = next(how)
                oldest.send_signal(number)
                members.append(join())
                assert oldest.wait(timeout=60) == (0 if number == signal.SIGTERM else -number)
            assert documents.count_documents({"_outputs": {"$exists": False}}), "under load"
        wait_until(
            lambda: acknowledged(SINK, kafka) == DOCUMENTS, doing="the rest", pause_seconds=0.3
        )
    assert documents.count_documents({"_outputs.img.clip.source": now}) == DOCUMENTS
