"""Processes of a pipeline and of the one after it, side by side, as during a rollout."""

import io
import signal
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from streams.contract.declaration import parse_declarations
from streams.contract.pipeline import compile_pipeline, dead_letter_topic
from streams.contract.values import decode_vector
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from streams.operate.given import keep
from streams.operate.pipeline import open_pipeline
from streams.settings import ClipSettings, ModelSettings
from tests.faults.processes import running
from tests.own_module import Scaled
from tests.pipelines import CLIP, CLIP_PROJECTION
from tests.tiny import DIMENSION, write_tiny_clip
from tests.waiting import DEADLINE_SECONDS, wait_until

BEFORE = (CLIP.declaration, CLIP_PROJECTION.declaration)
#: Stands behind `clip`. What follows it reaches old processes in events that name it.
[SCALED] = parse_declarations(
    [
        {
            "name": "scaled",
            "kind": "tests.own_module:Scaled",
            "key": "img",
            "features": {"img": "clip"},
            "options": {"dimension": DIMENSION, "factor": 2.0},
        }
    ]
)
AFTER = (CLIP.declaration, SCALED, BEFORE[1].model_copy(update={"after": ("scaled",)}))
#: Inserted at once: enough for both partitions.
DOCUMENTS = 24


def picture(number):
    data = io.BytesIO()
    Image.new("RGB", (48, 40), (number * 3 % 256, 90, 200)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def fleet(settings, tmp_path):
    """Starts processes; all are killed at the end."""
    clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random")
    new = settings.model_copy(update={"clip": clip})
    # Longer than the test: it does not notice that another pipeline is declared.
    old = new.model_copy(update={"models": ModelSettings(poll_interval_seconds=3600)})
    with ExitStack() as stack:
        yield lambda name, *, is_old=False: stack.enter_context(
            running(name, old if is_old else new)
        )


@pytest.fixture
def pipeline(settings):
    with open_pipeline(settings) as opened:
        opened.replace(BEFORE, expected_revision=0, reason="before")
        create_topics(settings.kafka, compile_pipeline(BEFORE))
        yield opened


class Feed:
    """Inserts documents, and waits for what is made of all that were inserted since one."""

    def __init__(self, documents):
        self._documents = documents
        self._count = 0

    def insert(self):
        """Return the number of the first."""
        first, self._count = self._count, self._count + DOCUMENTS
        self._documents.insert_many(
            {"_id": number, "img": picture(number)} for number in range(first, self._count)
        )
        return first

    def wait_for(self, *names, since=0):
        paths = {f"_outputs.img.{name}.value": {"$exists": True} for name in names}
        wanted = {"_id": {"$gte": since}, **paths}
        wait_until(
            lambda: self._documents.count_documents(wanted) == self._count - since,
            doing=f"{names} since {since}",
        )

    def outputs(self):
        return [row["_outputs"]["img"] for row in self._documents.find()]


def records(settings, *topics):
    names = [topic_name(topic, settings.kafka) for topic in topics]
    return [record for _, record in read_topics(names, settings.kafka)]


@pytest.mark.timeout(900)
def test_old_and_new_processes_work_side_by_side(fleet, pipeline, settings, registry, documents):
    """Fails when the old sink refuses an event that names a model it does not know."""
    feed = Feed(documents)
    old = [fleet(name, is_old=True) for name in ("publisher", "clip", "sink")]
    feed.insert()
    feed.wait_for("clip")

    # The old sink alone stores what the new processes make and it knows.
    module = Scaled(DIMENSION, factor=2.0)
    keep(SCALED, module, registry)
    create_topics(settings.kafka, compile_pipeline(AFTER))
    pipeline.replace(AFTER, expected_revision=1, reason="after")
    new = [fleet("scaled"), fleet("clip_projection")]
    since = feed.insert()
    feed.wait_for("clip", "clip_projection", since=since)
    assert any(b"scaled" in record.value for record in records(settings, "clip_projection"))

    # Both sinks are in the group.
    new.append(fleet("sink"))
    feed.insert()
    feed.wait_for("clip", "scaled", "clip_projection", since=since)

    # Two old ones end, and what is missing from before is made; the old `clip` has the same to do.
    publisher, clip, sink = old
    for process in (publisher, sink):
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_SECONDS) == 0
    new.append(fleet("publisher"))
    feed.insert()
    feed.wait_for("clip", "scaled", "clip_projection")
    assert [process.poll() for process in (clip, *new)] == [None] * 5

    weight = 2.0 * module.linear.weight.detach().numpy()
    for outputs in feed.outputs():
        assert outputs.keys() == {"clip", "scaled", "clip_projection"}
        clip, scaled = (decode_vector(outputs[name]["value"]) for name in ("clip", "scaled"))
        assert np.allclose(scaled, weight @ clip, atol=1e-5)
        assert outputs["scaled"]["features"] == {"clip": outputs["clip"]["version"]}
        assert not any("error" in output for output in outputs.values())
    letters = [dead_letter_topic(topic) for topic in ("changes", *outputs)]
    assert records(settings, *letters) == []
