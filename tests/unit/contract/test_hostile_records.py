"""Records of strangers that are nearly right: what is taken can be computed on and be stored."""

import json
import math

import bson
import msgpack
import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.documents import (
    Output,
)
from streams.contract.events import ModelApplied, Origin
from streams.contract.wire import decode_event, encode_event
from streams.contract.writes import OutputWrite, fields_of
from streams.errors import InvalidEvent
from streams.stages.outcome import Failed, Ok, Result
from streams.stages.sink import _plan
from tests.pipelines import CLIP_PROJECTION, DEFAULT
from tests.unit.stages.test_model_step import ready, run
from tests.unit.test_hostile_files import places, replaced

TENANT = "captions.documents"
HOSTILE = (
    *(None, True, 0, -1, 2**63, 1e308, math.inf, math.nan, "", "\0", "\ud800", "gpt", "$where"),
    *("clip", "conditional_lm", [], {}, [0], [-1], [2, 2], [4, 1], [2**62, 2**62], {"$where": "x"}),
    *(b"", b"x", b"\0" * 16, b"\xff" * 16, np.full(4, np.nan, "<f4").tobytes()),
    *({"clip": 1}, {"clip": None}, {1: 2}, 2**70, 10**400),
)


IMG = {"img": "ab" * 16}
VECTORS = {
    "clip": Output(value=np.ones(4, np.float32), version="c1", inputs=IMG, url="http://u"),
    "clip_projection": Output(
        value=np.ones(2, np.float32), version="p1", features={"clip": "c1"}, inputs=IMG
    ),
}
CAPTION = Output(value="a cat", version="l1", features={"clip": "c1"}, inputs=IMG, score=-0.5)
LINE = Output(value={"boxes": [{"x": 1.5}, None]}, version="j1+01234567", inputs=IMG)


def record(model, outputs):
    event = ModelApplied(
        document_id=1,
        source=Timestamp(5, 1),
        origin=Origin.COPY,
        model=model,
        outputs=outputs,
    )
    return encode_event(event, tenant=TENANT)


def check(good, value):
    try:
        event = decode_event(good.key, value, good.headers, tenant=TENANT)
    except InvalidEvent:
        return
    planned = _plan(event, DEFAULT)
    assert isinstance(planned, OutputWrite | Failed | Ok)
    if isinstance(planned, Ok):
        assert planned.result is Result.IGNORED
        assert event.model not in DEFAULT.models
    if isinstance(planned, OutputWrite):
        bson.encode({planned.model.path: fields_of(planned)})
    [outcome], _ = run(ready(), [event])
    assert isinstance(outcome, Ok | Failed)
    if isinstance(outcome, Ok) and outcome.event:
        assert outcome.event.model == CLIP_PROJECTION.name
        encode_event(outcome.event, tenant=TENANT)


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        ("clip", {**VECTORS, "conditional_lm": CAPTION}),
        ("clip_projection", {**VECTORS, "conditional_lm": CAPTION}),
        ("conditional_lm", {"conditional_lm": CAPTION, "stranger": LINE}),
    ],
)
def test_record_with_anything_in_any_place(model, outputs):
    """Fails without `_checked`, or `_name` and `_field`, of any place in `unpack`."""
    good = record(model, outputs)
    unpack, pack = json.loads, lambda value: json.dumps(value).encode()
    if dict(good.headers)["content-type"] == b"application/msgpack":
        unpack, pack = msgpack.unpackb, msgpack.packb
    whole = unpack(good.value)
    for place in places(whole):
        for new in HOSTILE:
            try:
                value = pack(replaced(whole, place, new))
            except (OverflowError, TypeError, ValueError):
                continue  # it cannot be sent
            check(good, value)


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"$set": "c1"}},
        {"features": {"clip": 2**70}},
        {"features": [1]},
        {"score": "high"},
        {"score": 2**70},
        {"inputs": {"$set": "ab"}},
        {"inputs": {"img.url": "ab"}},
        {"inputs": {"img": 5}},
        {"inputs": None},
        {"url": 5},
        {"url": "\ud800"},
        {"value": "\ud800"},
        {"value": ["\ud800"]},
        {"value": {"\0": 1}},
        {"value": 2**70},
        {"value": math.nan},
        {"version": "\udfff"},
        {"version": None},
    ],
    ids=repr,
)
def test_caption_that_mongodb_could_not_store_is_an_invalid_event(change):
    """Fails without the checks in `unpack`."""
    good = record("conditional_lm", {"conditional_lm": CAPTION})
    data = json.loads(good.value)
    decode_event(good.key, json.dumps(data).encode(), good.headers, tenant=TENANT)
    data["outputs"]["conditional_lm"] |= change
    value = json.dumps(data).encode()
    with pytest.raises(InvalidEvent):
        decode_event(good.key, value, good.headers, tenant=TENANT)
