"""What the sink makes of an event, before it writes."""

from dataclasses import replace

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.dead_letters import dead_letter_record, parse_dead_letter
from streams.contract.declaration import Declaration, ModelState
from streams.contract.documents import Output, OutputError
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.pipeline import CHANGES, compile_pipeline
from streams.contract.wire import encode_event
from streams.contract.writes import OutputWrite
from streams.errors import InvalidEvent
from streams.stages.outcome import Ok, Result
from streams.stages.sink import _plan

PIPELINE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="text", kind="gru", features={"img": "clip"}, fields=("title",)),
        Declaration(name="rests", kind="gru", features={"img": "clip"}, state=ModelState.INACTIVE),
    ]
)
SOURCE = Timestamp(100, 1)
CHANGED = DocumentChanged(document_id=1, source=SOURCE)
ERROR = OutputError(type="X", message="", attempts=1, is_retryable=False, version="t1")


def applied(model="text", inputs=None, **others):
    made = Output(value=["x"], version="t1", inputs=inputs or {"img": "i1", "title": "t1"})
    return ModelApplied(
        document_id=1,
        source=SOURCE,
        origin=Origin.LIVE,
        model=model,
        outputs={model: made, **others},
    )


def planned(event):
    return _plan(event, PIPELINE)


def test_output_is_written_in_the_place_of_its_model():
    event = applied(clip=Output(value=np.ones(2), version="c1", inputs={"img": "i1"}))
    assert planned(event) == OutputWrite(
        document_id=1,
        source=SOURCE,
        model=PIPELINE.models["text"],
        result=event.outputs["text"],
    )


def test_output_that_stands_in_its_document_is_not_written_again():
    """Fails without the look at `stored`: each finished document would cost a write per model."""
    event = replace(applied(), stored=frozenset({"text"}))
    assert planned(event) == Ok(event=None, result=Result.REUSED)
    assert isinstance(planned(replace(event, stored=frozenset({"clip"}))), OutputWrite)


@pytest.mark.parametrize(
    "inputs",
    [{"img": "i1"}, {"title": "t1"}, {"img": "i1", "title": "t1", "other": "o1"}, {"other": "o1"}],
    ids=repr,
)
def test_output_that_is_not_of_the_fields_of_its_model_is_refused(inputs):
    """Fails without the comparison in `_plan`: guards would compare what is not there."""
    refused = planned(applied(inputs=inputs))
    assert isinstance(refused.error, InvalidEvent)
    expected = f"text was made of {sorted(inputs)}, expected ['img', 'title']"
    assert str(refused.error) == expected


@pytest.mark.parametrize("model", ["stranger", "rests"])
def test_output_of_a_model_that_is_not_active_here_is_ignored(model):
    """Fails when it is dead-lettered: another pipeline is declared, and its sink stores it."""
    assert planned(applied(model)) == Ok(event=None, result=Result.IGNORED)


@pytest.mark.parametrize(
    ("event", "result"),
    [
        (CHANGED, Result.IGNORED),
        (replace(CHANGED, origin=Origin.RECONCILE), Result.IGNORED),
        (DocumentDeleted(document_id=1, source=SOURCE), Result.DELETED),
    ],
    ids=["change", "repeat", "delete"],
)
def test_event_that_brings_no_output_writes_nothing(event, result):
    assert planned(event) == Ok(event=None, result=result)


def letter(model):
    record = encode_event(CHANGED, tenant="a.b")
    made = dead_letter_record(
        record, stage=model, topic=CHANGES, position="0:1", model=model, error=ERROR
    )
    return parse_dead_letter(made.key, made.headers)


def test_error_is_written_in_the_place_of_its_model():
    found = planned(letter("text"))
    assert (found.model, found.result) == (PIPELINE.models["text"], ERROR)
    assert (found.document_id, found.source) == (1, SOURCE)


@pytest.mark.parametrize("model", ["stranger", "rests", ""])
def test_error_of_a_model_that_is_not_active_here_is_ignored(model):
    assert planned(letter(model)) == Ok(event=None, result=Result.IGNORED)
