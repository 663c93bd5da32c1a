"""The loop of a stage: what is delivered for a batch."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from bson import ObjectId
from bson.timestamp import Timestamp

from streams import metrics
from streams.contract.dead_letters import dead_letter_record, parse_dead_letter, replay_mark
from streams.contract.declaration import Declaration
from streams.contract.documents import Output, OutputError
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.ids import document_key
from streams.contract.pipeline import CHANGES, compile_pipeline
from streams.contract.wire import decode_event, encode_event
from streams.errors import InvalidImage, ModelFailed, Unavailable
from streams.settings import StageSettings
from streams.stages import stages_of
from streams.stages.outcome import Failed, Ok, Result
from streams.stages.records import Message
from streams.stages.stage import Stage, newest_by_document
from tests.pipelines import STAGES

TENANT = "captions.documents"
CLIP, PROJECTION, CAPTION, SINK = STAGES.values()


class EchoStep:
    """Makes an output of every change; fails where the id says so."""

    def __init__(self):
        self.batches = []

    def run(self, batch):
        self.batches.append(batch)
        return [self._one(event) for event in batch]

    def _one(self, event):
        if isinstance(event, DocumentDeleted):
            return Ok(event=event, result=Result.DELETED)
        if event.document_id == "bad":
            return Failed(error=InvalidImage("broken image"), version="c1")
        return Ok(event=applied(event.document_id, event.source), result=Result.DONE)

    def self_test(self):
        return True

    def versions(self):
        return {"clip": "c1"}


T1 = Timestamp(1, 1)


def applied(document_id, source=T1, model="clip"):
    return ModelApplied(
        document_id=document_id,
        source=source,
        origin=Origin.LIVE,
        model=model,
        outputs={model: Output(value=np.ones(2, np.float32), version="c1", inputs={"img": "ab"})},
    )


def changed(document_id, seconds=1):
    return DocumentChanged(document_id=document_id, source=Timestamp(seconds, 1))


def message(event, topic=CHANGES, offset=0):
    record = encode_event(event, tenant=TENANT)
    return Message(
        topic=topic,
        partition=0,
        offset=offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def handle(messages, spec=CLIP, step=None, *, is_too_large=lambda *_: False):
    delivered = []

    async def deliver(records):
        delivered.extend(records)
        return [i for i, (topic, record) in enumerate(records) if is_too_large(topic, record)]

    stage = Stage(spec, step or EchoStep(), StageSettings(), tenant=TENANT, deliver=deliver)
    asyncio.run(stage.handle(messages))
    return delivered


def test_each_outcome_goes_to_its_topic():
    delivered = handle([message(changed("a")), message(changed("bad")), message(changed("c"))])
    assert [topic for topic, _ in delivered] == [
        CLIP.output,
        f"{CHANGES}.dlq",
        CLIP.output,
    ]


def test_dead_letter_keeps_the_record_and_says_why():
    original = message(changed("bad"), offset=41)
    [(_, record)] = handle([original])
    letter = parse_dead_letter(record.key, record.headers)
    assert (record.key, record.value) == (original.key, original.value)
    assert (letter.stage, letter.model, letter.position) == ("clip", "clip", "0:41")
    assert (letter.error.type, letter.error.message) == ("InvalidImage", "broken image")
    assert letter.document_id == "bad"
    assert letter.source == Timestamp(1, 1)


@pytest.mark.parametrize("value", [b"", b"junk", None])
def test_garbage_becomes_a_dead_letter_and_the_rest_goes_on(value):
    """Fails without `InvalidEvent` in `_decode`."""
    junk = Message(topic=CHANGES, partition=0, offset=0, key=b"?", value=value, headers=[])
    topics = [topic for topic, _ in handle([junk, message(changed("a"))])]
    assert topics == [f"{CHANGES}.dlq", CLIP.output]


def test_of_several_changes_of_a_document_only_the_newest_is_processed():
    step = EchoStep()
    handle(
        [message(changed("a", 1)), message(changed("b", 1)), message(changed("a", 2))], step=step
    )
    assert [(e.document_id, e.source.time) for e in step.batches[0]] == [("b", 1), ("a", 2)]


def test_delete_drops_what_stands_before_it_and_travels_on():
    deleted = DocumentDeleted(document_id="a", source=Timestamp(2, 1))
    [(topic, record)] = handle([message(changed("a", 1)), message(deleted)])
    assert topic == CLIP.output
    again = decode_event(record.key, record.value, record.headers, tenant=TENANT)
    assert again == deleted


def test_late_delete_does_not_drop_a_newer_insert():
    """Fails when `newest_by_document` takes the last instead of the newest."""
    inputs = [changed("a", 3), DocumentDeleted(document_id="a", source=Timestamp(2, 1))]
    assert newest_by_document(inputs) == [0]


def test_outputs_of_several_models_do_not_compete():
    inputs = [applied("a"), applied("a", model="clip_projection"), applied("a")]
    assert newest_by_document(inputs) == [1, 2]


def test_failure_of_a_dead_letter_is_not_dead_lettered_again():
    junk = Message(topic=f"{CHANGES}.dlq", partition=0, offset=0, key=b"?", value=b"", headers=[])
    assert handle([junk], spec=SINK) == []


def test_what_is_too_large_for_kafka_becomes_a_dead_letter_without_value():
    """Fails when `deliver` repeats it: the process would end, and take it again, for ever."""
    messages = [message(changed("a")), message(changed("b"))]
    large = document_key("a")
    delivered = handle(
        messages, is_too_large=lambda _, record: record.key == large and record.value
    )
    letter = parse_dead_letter(delivered[-1][1].key, delivered[-1][1].headers)
    assert [record.key for _, record in delivered] == [large, document_key("b"), large]
    assert delivered[-1][1].value is None
    assert (letter.error.type, letter.document_id) == ("InvalidEvent", "a")


def test_dead_letter_that_is_too_large_is_left_out():
    """Fails when it is sent again and again."""
    assert len(handle([message(changed("a"))], is_too_large=lambda *_: True)) == 2


@pytest.mark.parametrize(
    ("is_too_large", "count"),
    [
        (lambda *_: False, 1),
        (lambda _, record: record.value, 1),  # it goes without its value
        (lambda *_: True, 0),
    ],
    ids=["fits", "too large with its value", "too large"],
)
def test_dead_letter_that_was_sent_is_counted_once_and_keeps_its_reason(is_too_large, count):
    """Fails when what is made is counted, not what is sent, or when the size becomes the reason."""

    def counted():
        return {
            tuple(sample.labels.values()): sample.value
            for sample in next(iter(metrics.DEAD_LETTERS.collect())).samples
            if sample.name.endswith("_total")
        }

    before = counted()
    delivered = handle([message(changed("bad"))], is_too_large=is_too_large)
    new = {labels: n - before.get(labels, 0) for labels, n in counted().items()}
    assert {labels: n for labels, n in new.items() if n} == (
        {("clip", "InvalidImage"): count} if count else {}
    )
    letters = [parse_dead_letter(record.key, record.headers) for _, record in delivered]
    assert {letter.error.type for letter in letters} == {"InvalidImage"}


class NoProjection(EchoStep):
    """A projection that has no version, or fails."""

    def _one(self, event):
        if isinstance(event, DocumentDeleted):
            return super()._one(event)
        if event.document_id == "awaits":
            return Ok(event=None, result=Result.AWAITING_MODEL)
        return Failed(error=ModelFailed("it raises"), version="p1")


def test_what_fails_on_the_way_or_awaits_a_version_does_not_stop_what_does_not_read_it():
    """Fails without `_passed_on`: a document would wait for its caption for ever."""
    events_in = [applied("awaits"), applied("fails")]
    delivered = handle(
        [message(event, topic=CLIP.output) for event in events_in],
        spec=PROJECTION,
        step=NoProjection(),
    )
    letter = f"{CLIP.output}.dlq"
    assert [topic for topic, _ in delivered] == [
        PROJECTION.output,
        PROJECTION.output,
        letter,
    ]
    for event, (_, record) in zip(events_in, delivered, strict=False):
        again = decode_event(record.key, record.value, record.headers, tenant=TENANT)
        assert (again.document_id, again.outputs.keys()) == (event.document_id, {"clip"})


class NoRoot(EchoStep):
    """A root that has no version, or fails."""

    def _one(self, event):
        if event.document_id == "awaits":
            return Ok(event=None, result=Result.AWAITING_MODEL)
        return Failed(error=InvalidImage("broken image"), version="c1")


#: The model of colours reads the image itself, and follows CLIP only for the sake of the line.
JOINED = stages_of(
    compile_pipeline(
        [
            Declaration(name="clip", kind="clip", key="img"),
            Declaration(name="colour", kind="colours:Colour", key="img"),
            Declaration(
                name="line", kind="lines:Line", features={"img": "clip", "colour": "colour"}
            ),
        ]
    )
)


def test_change_goes_on_past_a_failed_root_to_a_model_that_reads_the_document_itself():
    """Fails when only `ModelApplied` is passed on: colours would wait for a good image for ever."""
    assert JOINED["colour"].inputs == ("clip",)
    came = [changed("awaits"), changed("fails")]
    delivered = handle([message(event) for event in came], spec=JOINED["clip"], step=NoRoot())
    assert [topic for topic, _ in delivered] == ["clip", "clip", f"{CHANGES}.dlq"]
    for event, (_, record) in zip(came, delivered, strict=False):
        again = decode_event(record.key, record.value, record.headers, tenant=TENANT)
        assert again == event


def test_change_does_not_go_on_where_everything_behind_reads_the_root():
    assert [topic for topic, _ in handle([message(changed("bad"))])] == [f"{CHANGES}.dlq"]


def test_change_that_was_passed_on_reaches_the_next_stage_and_none_of_it_the_sink():
    """It is an event like any other; to the sink it brings nothing."""
    step, sink = EchoStep(), SinkStep()
    handle([message(changed("a"), topic="clip")], spec=JOINED["colour"], step=step)
    handle([message(changed("a"), topic="clip")], spec=JOINED["sink"], step=sink)
    assert step.batches == sink.batches == [[changed("a")]]


class ForeignStep(EchoStep):
    """Sends on what others have stored in a document, which no encoder takes."""

    def _one(self, event):
        made = applied(event.document_id, event.source)
        if event.document_id == "bad":
            made.outputs["clip"] = replace(made.outputs["clip"], features={"clip": ObjectId()})
        return Ok(event=made, result=Result.DONE)


def test_event_that_cannot_be_encoded_fails_alone():
    """Fails without `except` in `make`: the process would end, and take it again, for ever."""
    messages = [message(changed("a")), message(changed("bad")), message(changed("c"))]
    topics = [topic for topic, _ in handle(messages, step=ForeignStep())]
    assert topics == [
        CLIP.output,
        f"{CHANGES}.dlq",
        CLIP.output,
    ]


def test_dead_letter_of_another_collection_is_ignored():
    """Fails without `is_of` in `_decode`: its error would go into a document of ours."""
    own, foreign = (
        dead_letter_record(
            encode_event(changed("a"), tenant=tenant),
            stage="clip",
            topic=CHANGES,
            position="0:1",
            model="clip",
            error=OutputError(type="X", message="", attempts=1, is_retryable=False),
        )
        for tenant in (TENANT, "other.documents")
    )
    step = SinkStep()
    topic = f"{CHANGES}.dlq"
    records = [(1, own), (2, foreign)]
    letters = [
        Message(topic=topic, partition=0, offset=i, key=r.key, value=r.value, headers=r.headers)
        for i, r in records
    ]
    handle(letters, spec=SINK, step=step)
    assert len(step.batches[0]) == 1


class SinkStep(EchoStep):
    """Takes everything."""

    def _one(self, event):
        return Ok(event=None, result=Result.DONE)


class KnownStep(EchoStep):
    """Finds every output stored in its document."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    def _one(self, event):
        made = applied(event.document_id, model=self._model)
        return Ok(event=replace(made, stored=frozenset({self._model})), result=Result.REUSED)


def test_output_that_is_stored_is_sent_only_where_a_model_may_read_it():
    """Fails without `_is_known`: the sink would get a record for each, and leave it."""
    seen = [message(applied("a"), topic="clip")]
    assert len(handle(seen, spec=PROJECTION, step=KnownStep("clip_projection"))) == 1
    assert handle(seen, spec=CAPTION, step=KnownStep("conditional_lm")) == []


def test_what_is_stored_is_not_even_read_by_the_sink_but_by_all_others():
    """Fails without the look at the headers in `_decode`."""
    event = replace(applied("a"), stored=frozenset({"clip"}))
    seen, other = SinkStep(), EchoStep()
    assert handle([message(event, topic="clip")], spec=SINK, step=seen) == []
    handle([message(event, topic="clip")], spec=PROJECTION, step=other)
    assert ([*map(len, seen.batches)], [*map(len, other.batches)]) == ([0], [1])


def test_replay_mark_is_ignored_by_the_sink():
    mark = replay_mark("0:41", document_key("a"))
    step = EchoStep()
    seen = Message(
        topic=f"{CHANGES}.dlq",
        partition=0,
        offset=0,
        key=mark.key,
        value=mark.value,
        headers=mark.headers,
    )
    handle([seen], spec=SINK, step=step)
    assert step.batches == [[]]


def test_delivery_that_fails_leaves_the_batch_in_flight():
    """Fails when `handle` does not wait for the delivery."""

    async def deliver(records):
        msg = "broker is gone"
        raise Unavailable(msg)

    stage = Stage(CLIP, EchoStep(), StageSettings(), tenant=TENANT, deliver=deliver)
    with pytest.raises(Unavailable, match="broker is gone"):
        asyncio.run(stage.handle([message(changed("a"))]))
    assert stage.progress.in_flight == 1
