"""Processes of one stage that join and leave all the time, in the middle of their work."""

import itertools
import os
import random
import signal
from contextlib import ExitStack

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.kafka.topics import create_topics
from streams.settings import StageSettings
from streams.stages import SINK
from tests.faults.processes import (
    OLDEST,
    acknowledged,
    featurized,
    publish,
    refused_writes,
    running,
)
from tests.pipelines import CLIP, STAGES
from tests.waiting import DEADLINE_SECONDS, wait_until

#: One process leaves in each. Five minutes of it are about 100.
ROUNDS = int(os.environ.get("CAPTIONSTREAM_TEST_ROUNDS", "4"))
PROCESSES = 3
DOCUMENTS = 60
"""In each round."""


@pytest.mark.timeout(900)
def test_processes_that_join_and_leave_lose_nothing(settings, mongo_client):
    """Fails with `stream.ack` before `stage.handle` in `StageWorker`: the batch in hand is lost."""
    settings = settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(
                update={"session_timeout_seconds": 3.0, "partitions": PROCESSES}
            ),
            "stage": StageSettings(batch_size=8),
        }
    )
    create_topics(settings.kafka, DEFAULT)
    generator = random.Random(7)  # noqa: S311 - which process leaves, no secret
    ids = itertools.count()
    documents = mongo_client[settings.mongo.database][settings.mongo.collection]
    with ExitStack() as started:
        members = [started.enter_context(running(SINK, settings)) for _ in range(PROCESSES)]
        for how in generator.choices([signal.SIGKILL, signal.SIGTERM], k=ROUNDS):
            with refused_writes(mongo_client, settings):
                insert_and_publish(itertools.islice(ids, DOCUMENTS), documents, settings)
                busy = wait_until(lambda: busy_ones(members), doing="a batch in hand")
                leaving = generator.choice(busy)
                leave(leaving, how)
            members.remove(leaving)
            members.append(started.enter_context(running(SINK, settings)))
        count = ROUNDS * DOCUMENTS
        done = {"_outputs.img.clip.version": "c1"}
        wait_until(lambda: documents.count_documents(done) == count, doing="all documents")
        wait_until(
            lambda: acknowledged(STAGES[SINK], settings.kafka) == count, doing="all acknowledged"
        )


def busy_ones(processes):
    """Those whose batch has waited for longer than it takes to commit."""
    return [process for process in processes if (process.metric(OLDEST) or 0) > 0.6]


def leave(process, how):
    """With a word or without."""
    process.send_signal(how)
    assert process.wait(timeout=DEADLINE_SECONDS) == (0 if how == signal.SIGTERM else -how)


def insert_and_publish(ids, documents, settings):
    """Insert documents whose vectors are on the way to the sink."""
    rows = [{"_id": number, "img": b"x"} for number in ids]
    documents.insert_many(rows)
    now = documents.database.client.admin.command("ping")["operationTime"]
    records = [featurized(row["_id"], now, settings.mongo.tenant) for row in rows]
    publish(CLIP.name, records, settings.kafka)
