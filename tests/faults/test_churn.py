"""Processes of one stage that come and go."""

import itertools
import signal
from contextlib import ExitStack

import numpy as np
import pytest

from streams.documents import Output
from streams.events import IMAGE_FEATURIZED, ModelApplied, Origin
from streams.settings import StageSettings
from streams.stages import SINK
from streams.topics import create_topics
from streams.wire import encode_event
from tests.faults.processes import DONE, OLDEST, acknowledged, held_writes, publish, running
from tests.waiting import wait_until

DOCUMENTS, BATCH, TOGETHER, LEAVES = 4000, 128, 3, 3
#: A batch is in hand for so long that its process can be struck after positions were committed.
HELD_SECONDS, COMMITTED_SECONDS, MEASURED_SECONDS = 3.0, 0.6, 1.0
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


def is_in_the_middle(process):
    """Whether it has worked and has a batch in hand; the age was measured a second ago at most."""
    age = process.metric(OLDEST) or 0.0
    is_long_enough = COMMITTED_SECONDS < age < COMMITTED_SECONDS + MEASURED_SECONDS
    return process.metric(DONE) and is_long_enough


@pytest.mark.timeout(300)
def test_processes_that_join_and_leave_lose_nothing(settings, mongo_client):
    """Three at a time, under load; each has worked before it leaves, every other by SIGKILL.

    Fails with `stream.ack` before `stage.handle` in `StageWorker`.
    """
    kafka = settings.kafka.model_copy(update={"session_timeout_seconds": 3.0, "partitions": 3})
    stage = StageSettings(batch_size=BATCH)
    settings = settings.model_copy(update={"kafka": kafka, "stage": stage})
    create_topics(kafka)
    documents = mongo_client[settings.mongo.database][settings.mongo.collection]
    documents.insert_many([{"_id": number} for number in range(DOCUMENTS)])
    now = mongo_client.admin.command("ping")["operationTime"]
    publish(IMAGE_FEATURIZED, records(settings, now), kafka)

    how = itertools.cycle([signal.SIGKILL, signal.SIGTERM])
    with ExitStack() as stack:

        def join():
            return stack.enter_context(running(SINK.name, settings))

        with held_writes(mongo_client, settings, int(1000 * HELD_SECONDS)):
            members = [join() for _ in range(TOGETHER)]
            for _ in range(LEAVES):
                oldest = members.pop(0)
                wait_until(lambda p=oldest: is_in_the_middle(p), doing="a batch in hand")
                number = next(how)
                oldest.send_signal(number)
                members.append(join())
                assert oldest.wait(timeout=60) == (0 if number == signal.SIGTERM else -number)
            assert documents.count_documents({"_outputs": {"$exists": False}}), "under load"
        wait_until(
            lambda: acknowledged(SINK, kafka) == DOCUMENTS, doing="the rest", pause_seconds=0.3
        )
    assert documents.count_documents({"_outputs.img.clip.source": now}) == DOCUMENTS
