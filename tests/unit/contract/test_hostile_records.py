"""Records of strangers that are nearly right: what is taken can be computed on and be stored."""

import json
import math

import bson
import msgpack
import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract import events
from streams.contract.documents import (
    Output,
)
from streams.contract.events import ModelApplied, Origin
from streams.contract.wire import decode_event, encode_event
from streams.contract.writes import OutputWrite, fields_of
from streams.errors import InvalidEvent
from streams.stages.outcome import Failed, Ok
from streams.stages.sink import _plan
from tests.pipelines import CLIP_PROJECTION
from tests.unit.stages.test_apply import loaded, run
from tests.unit.test_hostile_files import places, replaced

TENANT = "captions.documents"
HOSTILE = (
    *(None, True, 0, -1, 2**63, 1e308, math.inf, math.nan, "", "\0", "\ud800", "gpt", "$where"),
    *("clip", "conditional_lm", [], {}, [0], [-1], [2, 2], [4, 1], [2**62, 2**62], {"$where": "x"}),
    *(b"", b"x", b"\0" * 16, b"\xff" * 16, np.full(4, np.nan, "<f4").tobytes()),
    *({"clip": 1}, {"clip": None}, {1: 2}, 2**70, 10**400),
)


def record(event_type, model):
    outputs = {
        "clip": Output(value=np.ones(4, np.float32), version="c1", url="http://u"),
        "clip_projection": Output(
            value=np.ones(2, np.float32), version="p1", features={"clip": "c1"}
        ),
        "conditional_lm": Output(value="a cat", version="l1", features={"clip": "c1"}, score=-0.5),
    }
    event = ModelApplied(
        document_id=1,
        source=Timestamp(5, 1),
        origin=Origin.COPY,
        input="ab" * 16,
        model=model,
        outputs=outputs,
    )
    return encode_event(event, tenant=TENANT)


def check(good, value, event_type):
    try:
        event = decode_event(good.key, value, good.headers, tenant=TENANT)
    except InvalidEvent:
        return
    planned = _plan(event)
    assert isinstance(planned, OutputWrite | Failed)
    if isinstance(planned, OutputWrite):
        bson.encode({planned.model.path: fields_of(planned)})
    [outcome], _ = run(loaded(), [event])
    assert isinstance(outcome, Ok | Failed)
    if event_type != events.CAPTION_GENERATED and isinstance(outcome, Ok) and outcome.event:
        assert outcome.event.model == CLIP_PROJECTION.name
        encode_event(outcome.event, tenant=TENANT)


@pytest.mark.parametrize(
    ("event_type", "model"),
    [
        (events.IMAGE_FEATURIZED, "clip"),
        (events.IMAGE_PROJECTED, "clip_projection"),
        (events.CAPTION_GENERATED, "conditional_lm"),
    ],
)
def test_record_with_anything_in_any_place(event_type, model):
    """Fails without the look at `ndim`, or `_checked` of any field, in `wire`."""
    good = record(event_type, model)
    unpack, pack = json.loads, lambda value: json.dumps(value).encode()
    if event_type != events.CAPTION_GENERATED:
        unpack, pack = msgpack.unpackb, msgpack.packb
    whole = unpack(good.value)
    for place in places(whole):
        for new in HOSTILE:
            try:
                value = pack(replaced(whole, place, new))
            except (OverflowError, TypeError, ValueError):
                continue  # it cannot be sent
            check(good, value, event_type)
