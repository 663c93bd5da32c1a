"""A model that does not survive one document."""

import random
import signal
import subprocess
import sys
from contextlib import closing

import psutil
import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentChanged
from streams.contract.ids import document_id_of, document_key
from streams.contract.pipeline import CHANGES
from streams.contract.wire import encode_event
from streams.errors import ProcessBroken
from streams.kafka.producer import publish_all
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from streams.mongo.client import state_database
from streams.operate.dead_letter_log import DeadLetterLog, Wanted
from streams.settings import ClipSettings, ImageSettings, StageSettings, child_environment
from streams.stages.watchdog import HUNG
from tests.faults.guests import white
from tests.faults.load import picture
from tests.pipelines import CLIP
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

COUNT = 12


def done(settings):
    """Return the documents that have an embedding."""
    name = topic_name(CLIP.name, settings.kafka)
    return {document_id_of(record.key) for _, record in read_topics([name], settings.kafka)}


@pytest.mark.parametrize(
    ("ends", "error", "standing"),
    [
        (
            [("breaks", ProcessBroken.exit_code), ("hangs", HUNG), ("hangs", HUNG)],
            "ModelHung",
            {"hangs": True},
        ),
        ([("crashes", -signal.SIGABRT)] * 3, "ModelCrashed", {}),
    ],
    ids=["hangs", "crashes"],
)
def test_document_that_the_model_does_not_survive_fails_alone(
    ends, error, standing, settings, mongo_client, tmp_path
):
    """The first process dies with a batch in hand, the next with the poison message alone.

    The last goes on. One that breaks before them is to leave nothing behind, since no document is
    the cause: it fails when the batch is held for ever, or is acknowledged by the end of the
    process. Hanging fails without the watchdog: its process never ends. Both fail without `take` in
    `watchdog.py`: all processes die of the whole batch.
    """
    settings = settings.model_copy(
        update={
            "clip": ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random"),
            "stage": StageSettings(
                torch_threads=1, batch_size=4, stall_seconds=7, backoff_max_seconds=0.2
            ),
            "image": ImageSettings(max_seconds=2.5),
            "mongo": settings.mongo.model_copy(update={"timeout_seconds": 1.8}),
            "kafka": settings.kafka.model_copy(update={"session_timeout_seconds": 3.0}),
        }
    )
    create_topics(settings.kafka, DEFAULT)
    mongo = settings.mongo
    documents = mongo_client[mongo.database][mongo.collection]
    generator = random.Random(2)  # noqa: S311 - pictures, no secret
    images = [picture(generator) for _ in range(COUNT)]
    images[7] = white()
    documents.insert_many([{"_id": i, "img": image} for i, image in enumerate(images)])

    def publish(document_ids):
        now = mongo_client.admin.command("ping")["operationTime"]
        events = [DocumentChanged(document_id=number, source=now) for number in document_ids]
        records = [encode_event(e, tenant=mongo.tenant) for e in events]
        publish_all([(CHANGES, record) for record in records], settings.kafka)

    publish(range(COUNT))

    last = subprocess.Popen(
        [sys.executable, "-m", "tests.deadly", *(how for how, _ in ends)],
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for how, code in ends:  # one by one: after another end there may be one too few
            assert (how, int(last.stdout.readline() or 0)) == (how, code)
        wait_until(lambda: done(settings) == {*range(COUNT)} - {7}, doing="all the others")
        with closing(DeadLetterLog(settings.kafka, DEFAULT.topics)) as log:
            [letter] = wait_until(lambda: log.refresh() or [*log.entries(Wanted())], doing="it")
        assert (letter.document, letter.reason) == (document_key(7).decode(), error)
        [mark] = state_database(mongo_client, mongo)["quarantine"].find()
        assert standing.items() <= mark.items()

        # Another image is another matter.
        documents.update_one({"_id": 7}, {"$set": {"img": picture(generator)}})
        publish([7])
        wait_until(lambda: 7 in done(settings), doing="the other image")
        assert last.poll() is None
    finally:
        for process in psutil.Process(last.pid).children(recursive=True):
            process.kill()
        last.kill()
        last.communicate()
