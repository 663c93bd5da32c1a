"""An end in the middle of work, clean or not: the next process goes on where this one ended."""

import random
import signal
import subprocess
import sys

import pytest
from pydantic import SecretStr

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentChanged
from streams.contract.pipeline import CHANGES
from streams.contract.wire import encode_event
from streams.kafka.topics import create_topics
from streams.settings import ClipSettings, StageSettings, child_environment
from streams.stages import SINK
from tests.faults.load import picture
from tests.faults.processes import (
    DONE,
    OLDEST,
    acknowledged,
    featurized,
    publish,
    refused_writes,
    running,
)
from tests.pipelines import CLIP, STAGES
from tests.tiny import write_tiny_clip
from tests.waiting import DEADLINE_SECONDS, wait_until

#: Enough for a signal to come in the middle, also on a slow machine.
DOCUMENTS = 300
BATCH = 4


def test_process_that_waits_for_its_neighbours_ends_cleanly(settings):
    """Fails without the first handler in `run`."""
    away = settings.mongo.model_copy(update={"uri": SecretStr("mongodb://127.0.0.1:1")})
    with running(SINK, settings.model_copy(update={"mongo": away})) as process:
        wait_until(lambda: process.metric(DONE) is not None, doing="its endpoints")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_SECONDS) == 0


def test_error_that_nobody_expected_ends_the_process_and_loses_nothing(settings, mongo_client):
    """Fails without `CrashingSupervisor` in `application.py`: the process lives on and waits."""
    kafka = settings.kafka.model_copy(update={"session_timeout_seconds": 3.0})
    settings = settings.model_copy(update={"kafka": kafka})
    create_topics(kafka, DEFAULT)
    documents = mongo_client[settings.mongo.database][settings.mongo.collection]
    documents.insert_one({"_id": 1, "img": b"x"})
    now = mongo_client.admin.command("ping")["operationTime"]
    record = featurized(1, now, settings.mongo.tenant)
    publish(CLIP.name, [record], kafka)
    done = subprocess.run(
        [sys.executable, "-m", "tests.escaping"],
        env=child_environment(settings),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode not in (0, 2), done.stderr[-2000:]
    with running(SINK, settings):
        wait_until(lambda: documents.find_one({"_outputs.img.clip.version": "c1"}), doing="it")


@pytest.mark.timeout(300)
def test_what_was_finished_is_not_done_again_and_what_was_in_hand_is(
    settings, mongo_client, tmp_path
):
    """The first and the last of the chain; the loop around their steps is the same for all.

    SIGKILL fails with `stream.ack` before `stage.handle` in `StageWorker`: the batch in hand is
    lost. SIGTERM fails with `os._exit(0)` at the start of `Worker.on_stop`: what was not committed
    comes again.
    """
    settings = settings.model_copy(
        update={
            "clip": ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random"),
            "stage": StageSettings(batch_size=BATCH, torch_threads=1, decode_workers=1),
            "kafka": settings.kafka.model_copy(update={"session_timeout_seconds": 6.0}),
        }
    )
    documents = insert_and_publish(settings, mongo_client)
    end_in_the_middle(CLIP.name, settings)
    with refused_writes(mongo_client, settings), running(SINK, settings) as process:
        wait_until(lambda: (process.metric(OLDEST) or 0) > 1, doing="a batch in hand")
        process.kill()
    end_in_the_middle(SINK, settings)
    stored = "_outputs.img.clip.value"
    assert documents.count_documents({stored: {"$exists": True}}) == DOCUMENTS


def insert_and_publish(settings, client):
    """Return the collection with documents whose records wait for the first stage."""
    create_topics(settings.kafka, DEFAULT)
    documents = client[settings.mongo.database][settings.mongo.collection]
    generator = random.Random(3)  # noqa: S311 - pictures, no secret
    rows = [{"_id": number, "img": picture(generator)} for number in range(DOCUMENTS)]
    documents.insert_many(rows)
    now = client.admin.command("ping")["operationTime"]
    events = [DocumentChanged(document_id=number, source=now) for number in range(DOCUMENTS)]
    tenant = settings.mongo.tenant
    records = [encode_event(event, tenant=tenant) for event in events]
    publish(CHANGES, records, settings.kafka)
    return documents


def end_in_the_middle(stage, settings):
    """SIGTERM while there is work; the next process does the rest, and nothing else."""
    with running(stage, settings) as process:
        wait_until(lambda: (process.metric(DONE) or 0) >= 10, doing="the first documents")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_SECONDS) == 0
    before = acknowledged(STAGES[stage], settings.kafka)
    assert 10 <= before < DOCUMENTS
    with running(stage, settings) as process:
        wait_until(
            lambda: acknowledged(STAGES[stage], settings.kafka) == DOCUMENTS,
            doing="the rest",
            pause_seconds=0.3,
        )
        assert process.metric(DONE) <= DOCUMENTS - before + BATCH
