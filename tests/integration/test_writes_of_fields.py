"""Who may overwrite what where outputs depend on several fields, on a real MongoDB."""

from itertools import permutations

import pytest
from bson.timestamp import Timestamp

from streams.contract.declaration import Declaration
from streams.contract.documents import Output, lookup
from streams.contract.pipeline import compile_pipeline
from streams.contract.writes import OutputWrite
from streams.mongo.client import connect
from streams.mongo.store import DocumentStore

PIPELINE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="words", kind="words:Words", key="title"),
        Declaration(name="text", kind="gru", features={"img": "clip", "title": "words"}),
        Declaration(name="mood", kind="gru", features={"img": "clip"}, fields=("a note",)),
    ]
)


@pytest.fixture
def store(settings):
    with connect(settings.mongo) as client:
        yield DocumentStore(client, settings.mongo, PIPELINE)


def write(name, seconds, version="v1", **inputs):
    """An output of a change, made of these contents."""
    model = PIPELINE.models[name]
    made_of = {field: inputs[field.replace("a note", "note")] for field in model.inputs}
    features = dict.fromkeys(model.reads, "v1")
    return OutputWrite(
        document_id=1,
        source=Timestamp(seconds, 1),
        model=model,
        result=Output(value=name, version=version, features=features, inputs=made_of),
    )


def stored(store):
    """Of each model: seconds of its change, and what it was made of."""
    document = store.collection.find_one({"_id": 1})
    found = {name: lookup(document, model.path) for name, model in PIPELINE.models.items()}
    return {
        name: (fields["source"].time, fields["input"])
        for name, fields in found.items()
        if fields is not None
    }


def ends(store, writes):
    """What is stored in the end, for every order of the writes."""
    found = []
    for order in permutations(writes):
        store.collection.replace_one({"_id": 1}, {"img": b""}, upsert=True)
        for each in order:
            report = store.write_outputs([each])
            assert not report.rejected
        found.append(stored(store))
    return found


def test_another_content_of_one_field_drops_only_what_was_made_of_it(store):
    """Fails with the inputs of the image alone in `_is_of_other_inputs`."""
    first = {"img": "i1", "title": "t1", "note": "n1"}
    for name in PIPELINE.models:
        store.collection.update_one({"_id": 1}, {"$set": {"img": b""}}, upsert=True)
        assert store.write_outputs([write(name, 10, **first)]).written == 1
    assert store.write_outputs([write("words", 20, **{**first, "title": "t2"})]).written == 1
    assert stored(store) == {
        "clip": (10, {"img": "i1"}),
        "words": (20, {"title": "t2"}),
        "mood": (10, {"a note": "n1", "img": "i1"}),
    }


def test_same_contents_of_a_newer_change_drop_nothing(store):
    first = {"img": "i1", "title": "t1", "note": "n1"}
    store.collection.insert_one({"_id": 1, "img": b""})
    store.write_outputs([write(name, 10, **first) for name in PIPELINE.models])
    assert store.write_outputs([write("words", 20, **first)]).written == 1
    assert {name: source for name, (source, _) in stored(store).items()} == {
        "clip": 10,
        "words": 20,
        "text": 10,
        "mood": 10,
    }


def test_records_of_two_changes_of_one_field_end_in_the_same_outputs_in_any_order(store):
    """Fails without the guard, or the removal, for any of the fields."""
    old = {"img": "i1", "title": "t1", "note": "n1"}
    new = {**old, "title": "t2"}
    writes = [write(n, 10, **old) for n in ("words", "text")]
    writes += [write(n, 20, **new) for n in ("clip", "words", "text")]
    expected = {
        "clip": (20, {"img": "i1"}),
        "words": (20, {"title": "t2"}),
        "text": (20, {"img": "i1", "title": "t2"}),
    }
    assert all(end == expected for end in ends(store, writes))


def test_output_of_an_older_content_of_any_field_is_not_written_beside_a_newer_one(store):
    """Fails when only the first input is compared in `_outdates`."""
    for field, late in (("img", "clip"), ("title", "words")):
        old = {"img": "i1", "title": "t1", "note": "n1"}
        writes = [write(late, 20, **{**old, field: "new"}), write("text", 10, **old)]
        assert all("text" not in end for end in ends(store, writes))


def test_output_of_the_same_change_and_another_content_of_its_own_field_takes_the_place(store):
    """Fails without the own field in `_differs`: the note was read again, and has changed."""
    old = {"img": "i1", "title": "t1", "note": "n1"}
    store.collection.insert_one({"_id": 1, "img": b""})
    assert store.write_outputs([write("mood", 10, **old)]).written == 1
    assert store.write_outputs([write("mood", 10, **old)]).ignored == 1
    assert store.write_outputs([write("mood", 10, **{**old, "note": "n2"})]).written == 1
    assert stored(store)["mood"] == (10, {"a note": "n2", "img": "i1"})
