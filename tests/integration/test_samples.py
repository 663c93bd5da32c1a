"""What earlier processes have stored is read as it was meant, or refused with the remedy.

The samples were written once, by the first release with format numbers, through the functions that
write them in production: `encode_event`, `dead_letter_record`, `output_fields`, `error_fields`,
`Registry`, `Leadership`, `Declarations`. They are never written again: a change that breaks one of
these tests needs another format number, and a sample of its own beside these.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from bson import json_util
from bson.timestamp import Timestamp

from streams.contract.dead_letters import original_headers, parse_dead_letter
from streams.contract.declaration import Declaration
from streams.contract.documents import OutputError, lookup, stored_output, unread_format
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.pipeline import compile_pipeline
from streams.contract.states import Recaption
from streams.contract.wire import decode_event
from streams.errors import InvalidEvent, UnknownFormat
from streams.mongo.leadership import CopyState, Leadership, Position, position_time
from streams.registry.versions import Registry

SAMPLES = Path(__file__).parents[1] / "samples"
TENANT = "shop.pictures"
SOURCE = Timestamp(1_790_000_000, 7)
AT = datetime(2026, 11, 27, 21, 30, 15, 250000, tzinfo=UTC)
IMG, TITLE = "9f" * 16, "1c" * 16
UPGRADE = "upgrade this process"
PIPELINE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="colour", kind="a:Colour", key="img"),
        Declaration(name="clip_projection", kind="linear", key="img", features={"img": "clip"}),
        Declaration(name="line", kind="a:Line", features={"img": "clip"}, fields=["title"]),
    ]
)


def sample(name):
    options = json_util.JSONOptions(tz_aware=True)
    return json_util.loads((SAMPLES / name).read_text(), json_options=options)


def record(name):
    found = json.loads((SAMPLES / "records.json").read_text())[name]
    value = None if found["value_hex"] is None else bytes.fromhex(found["value_hex"])
    headers = [(name, text.encode()) for name, text in found["headers"]]
    return found["key"].encode(), value, headers


def raised(headers, name, old, new):
    """Headers where the number in one is another one."""
    changed = [(n, v.replace(old, new) if n == name else v) for n, v in headers]
    assert changed != headers
    return changed


def check_colour(output):
    assert output.value == {"rgb": [12, 34, 56], "share": 0.5}
    assert (output.version, output.inputs) == ("k1+0a1b2c3d", {"img": IMG})


def check_vector(output):
    assert output.value.dtype == np.float32
    assert output.value.tolist() == [0.5, -1.25, 3.0]
    assert (output.version, output.inputs, output.url) == (
        "c1",
        {"img": IMG},
        "https://e.org/a.jpg",
    )


def check_line(output):
    assert (output.value, output.version, output.score) == ("a red cat", "l1", -0.5)
    assert output.features == {"clip": "c1"}
    assert output.inputs == {"img": IMG, "title": TITLE}


def test_events():
    events = {
        name: decode_event(*record(name), tenant=TENANT)
        for name in ("changed", "deleted", "applied", "applied_vectors")
    }
    assert events["changed"] == DocumentChanged(
        document_id="a1", source=SOURCE, origin=Origin.COPY, changed_at=AT
    )
    assert events["deleted"] == DocumentDeleted(document_id="a1", source=SOURCE)
    applied, vectors = events["applied"], events["applied_vectors"]
    assert isinstance(applied, ModelApplied)
    assert (applied.document_id, applied.source, applied.changed_at) == ("a1", SOURCE, AT)
    assert (applied.origin, applied.model) == (Origin.LIVE, "line")
    assert (vectors.origin, vectors.model) == (Origin.RECONCILE, "clip")
    check_line(applied.outputs["line"])
    check_colour(applied.outputs["colour"])
    check_colour(vectors.outputs["colour"])
    check_vector(vectors.outputs["clip"])


@pytest.mark.parametrize("name", ["changed", "deleted", "applied", "applied_vectors"])
def test_event_of_another_format_is_refused(name):
    key, value, headers = record(name)
    with pytest.raises(InvalidEvent, match=rf"format .*\.v2.*{UPGRADE}"):
        decode_event(key, value, raised(headers, "ce_type", b".v1", b".v2"), tenant=TENANT)


def test_dead_letter():
    key, value, headers = record("dead_letter")
    letter = parse_dead_letter(key, headers)
    assert (letter.stage, letter.topic, letter.position, letter.model) == (
        "clip",
        "changes",
        "3:42",
        "clip",
    )
    assert letter.error == OutputError(
        type="ModelFailed",
        message="no luck: try again",
        attempts=3,
        is_retryable=True,
        version="l1",
    )
    assert (letter.document_id, letter.source) == ("a1", SOURCE)
    assert original_headers(headers) == record("changed")[2]
    assert value == record("changed")[1]


def test_dead_letter_of_another_format_is_refused():
    key, _, headers = record("dead_letter")
    with pytest.raises(InvalidEvent, match=f"stored in format 2 .*{UPGRADE}"):
        parse_dead_letter(key, raised(headers, "dl_format", b"1", b"2"))


def test_outputs_and_error():
    document, inputs = sample("document.json"), {"img": IMG, "title": TITLE}
    clip, colour, projection, line = (
        PIPELINE.models[name] for name in ("clip", "colour", "clip_projection", "line")
    )
    check_vector(stored_output(document, clip, inputs))
    check_colour(stored_output(document, colour, inputs))
    check_line(stored_output(document, line, inputs))
    assert stored_output(document, projection, inputs) is None
    error = lookup(document, f"{projection.path}.error")
    assert (error["type"], error["retryable"], error["attempts"]) == ("ModelFailed", True, 3)
    assert lookup(document, f"{projection.path}.version") == "l1"
    assert all(lookup(document, f"{m.path}.source") == SOURCE for m in PIPELINE.models.values())
    assert not any(unread_format(document, model) for model in PIPELINE.models.values())


@pytest.mark.parametrize("name", PIPELINE.models)
def test_output_or_error_of_another_format_is_not_read(name):
    document, model = sample("document.json"), PIPELINE.models[name]
    lookup(document, model.path)["format"] += 1
    assert stored_output(document, model, {}) is None
    said = unread_format(document, model)
    assert said.startswith(f"{name} is stored in format 2 and this release reads 1: {UPGRADE}")


def insert_registry(database, **formats):
    for name, rows in sample("registry.json").items():
        for row in rows:
            row["format"] += formats.get(name, 0)
        database[name].insert_many(rows)


def test_registry(database):
    insert_registry(database)
    registry = Registry(database)
    first, second = (info.version for info in registry.versions("conditional_lm"))
    one, two = registry.history("conditional_lm")
    assert (one.version, one.revision, one.previous, one.reason) == (first, 1, None, "fit 1")
    assert (two.version, two.revision, two.previous, two.reason) == (second, 2, first, "fit 2")
    assert (one.recaption, one.refusal) == (Recaption.STALE, None)
    assert (two.refusal.reason, two.serving) == ("golden output differs", first)
    info = registry.describe("conditional_lm", second)
    assert (info.manifest.name, info.manifest.kind) == ("conditional_lm", "gru")
    announced = registry.describe("clip", "c1")
    assert announced.is_announced
    assert announced.details == {"dimension": 8, "model": "tiny"}
    assert registry.pointer("clip").serving == "c1"


@pytest.mark.parametrize("collection", ["model_pointers", "model_versions"])
def test_registry_of_another_format_is_refused(database, collection):
    insert_registry(database, **{collection: 1})
    registry = Registry(database)
    with pytest.raises(UnknownFormat, match=f"stored in format 2 .*{UPGRADE}"):
        registry.promote("clip", "c1", reason="test")


def test_position_and_copy(database):
    row = sample("position.json")
    database["positions"].insert_one(row)
    lease = Leadership(database, tenant=TENANT, lease_seconds=60)
    assert position_time(database, TENANT) == SOURCE
    assert lease.holder() == "host-1:77"
    assert lease.acquire()  # it has run out
    assert lease.epoch == row["epoch"] + 1
    progress = lease.read()
    assert progress.position == Position(
        token={"_data": "82AB"}, cluster_time=SOURCE, filter_hash="f0" * 4
    )
    assert progress.copy == CopyState(source=SOURCE, start=("m5",), last=("z9",))
    assert progress.copied_at == AT
    assert progress.acknowledged == {0: 41, 3: 7}


def test_position_of_another_format_is_refused_and_left_alone(database):
    row = sample("position.json")
    row["format"] += 1
    database["positions"].insert_one(row)
    lease = Leadership(database, tenant=TENANT, lease_seconds=60)
    said = f"lease on {TENANT} is stored in format 2 and this release reads 1: {UPGRADE}"
    with pytest.raises(UnknownFormat, match=said):
        lease.acquire()
    with pytest.raises(UnknownFormat, match=said):
        position_time(database, TENANT)
    assert database["positions"].find_one() == row
