"""The rule of who may overwrite what, on a real MongoDB: the order of records decides nothing."""

import random
from itertools import permutations

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError, lookup
from streams.contract.writes import OutputWrite
from streams.mongo.client import connect
from streams.mongo.store import DocumentStore
from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM, MODELS

DERIVED = (CLIP_PROJECTION, CONDITIONAL_LM)


@pytest.fixture
def store(settings):
    with connect(settings.mongo) as client:
        yield DocumentStore(client, settings.mongo, DEFAULT)


def write(model, seconds, image, version="v1", clip="v1", document_id=1):
    """An output made of an image; an error where there is none."""
    features = {name: clip for name in model.reads}
    made_of = {"features": features, "inputs": {"img": image}}
    result = (
        Output(value=np.ones(2, np.float32), version=version, **made_of)
        if image
        else OutputError(type="X", message="", attempts=1, is_retryable=False, version=version)
    )
    return OutputWrite(
        document_id=document_id,
        source=Timestamp(seconds, 1),
        model=model,
        result=result,
    )


def image_of(result):
    return result.inputs["img"] if isinstance(result, Output) else ""


def outputs(document):
    """Of each model: seconds of its change, its image or "" for an error, its version."""
    return {
        model: (stored["source"].time, stored.get("input", {}).get("img", ""), stored["version"])
        for model in MODELS
        if (stored := lookup(document, model.path)) is not None
    }


def what_comes_of(draw, number, seconds):
    """All records of one change: a failed image stops both others, and they fail by themselves."""
    image = draw.choice(("A", "B", "C", ""))
    made = [write(CLIP, seconds, image, document_id=number)]
    if image:
        made += [
            write(model, seconds, draw.choice((image, image, "")), document_id=number)
            for model in DERIVED
        ]
    return made


def test_records_in_any_order_and_repeated_end_in_what_the_newest_change_gives(store):
    """Fails without `$nor` in `update_of`, without `drops_of`, or when either sees less."""
    draw = random.Random(12)  # noqa: S311 - no secret
    histories, expected = {}, {}
    for number in range(400):
        changes = [what_comes_of(draw, number, 1 + i) for i in range(draw.randint(1, 3))]
        records = [record for change in changes for record in change]
        records += draw.choices(records, k=draw.randint(0, 6))
        draw.shuffle(records)
        histories[number] = records
        expected[number] = {
            w.model: (w.source.time, image_of(w.result), w.result.version) for w in changes[-1]
        }
    store.collection.insert_many([{"_id": number} for number in histories])
    for step in range(max(map(len, histories.values()))):
        store.write_outputs([r[step] for r in histories.values() if step < len(r)])
    for document in store.collection.find():
        found = outputs(document)
        assert found == expected[document["_id"]], histories[document["_id"]]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_outputs_of_one_change_and_two_images_end_in_the_last_image(store, order):
    """Fails without other inputs in `_differs`: the embedding of A stays beside a caption of B.

    The image was replaced and the event of that is lost; the document is published again.
    """
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(model, 1, "A") for model in MODELS])
    again = [write(CLIP, 1, "B"), *(write(model, 1, "B", version="v2") for model in DERIVED)]
    for position in order:
        store.write_outputs([again[position]])
    store.write_outputs(again)
    expected = {CLIP: (1, "B", "v1"), **dict.fromkeys(DERIVED, (1, "B", "v2"))}
    assert outputs(store.collection.find_one({"_id": 1})) == expected


def test_late_result_of_another_image_stands_beside_no_embedding_of_this_one(store):
    """Fails without the same change in `_outdates`: a replayed dead letter brings one."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(CLIP, 1, "B")])
    assert store.write_outputs([write(CONDITIONAL_LM, 1, "A")]).ignored == 1
    assert store.write_outputs([write(CONDITIONAL_LM, 1, "B")]).written == 1


def test_caption_of_an_older_embedding_of_the_image_stays_until_it_is_made_again(store):
    """Fails when versions count: a new CLIP would take all captions while they are made again."""
    store.collection.insert_one({"_id": 1})
    captions = write(CONDITIONAL_LM, 1, "A")
    store.write_outputs([write(CLIP, 1, "A"), captions, write(CLIP, 1, "A", version="v2")])
    found = outputs(store.collection.find_one({"_id": 1}))
    assert found == {CLIP: (1, "A", "v2"), CONDITIONAL_LM: (1, "A", "v1")}


def test_attempt_that_succeeds_is_not_held_up_by_the_error_before_it(store):
    """Fails without `passed` in `_outdates`: the caption is often the first to arrive."""
    store.collection.insert_one({"_id": 1})
    late = [write(CONDITIONAL_LM, 1, "A"), write(CLIP, 1, "A")]
    for one in (write(CLIP, 1, ""), *late, write(CLIP, 1, "")):
        store.write_outputs([one])
    found = outputs(store.collection.find_one({"_id": 1}))
    assert found == {CLIP: (1, "A", "v1"), CONDITIONAL_LM: (1, "A", "v1")}


@pytest.mark.parametrize("is_late", [True, False])
def test_error_of_a_new_version_takes_what_was_made_of_the_version_before(store, is_late):
    """Fails without the same change in `_outdated`: the document would be failed and captioned."""
    store.collection.insert_one({"_id": 1})
    made = [write(CLIP, 1, "A"), write(CLIP, 1, "", version="v2")]
    made.insert(2 if is_late else 1, write(CONDITIONAL_LM, 1, "A"))
    for one in made:
        store.write_outputs([one])
    assert outputs(store.collection.find_one({"_id": 1})) == {CLIP: (1, "", "v2")}


def in_format(store, model, number):
    store.collection.update_one({"_id": 1}, {"$set": {f"{model.path}.format": number}})


@pytest.mark.parametrize("image", ["B", ""])
def test_old_process_takes_nothing_back_that_a_new_one_wrote_in_a_later_format(store, image):
    """Fails without `_not_later` in `update_of` or in `_outdated`; a newer change counts all the
    same, and so does what is right in place of an earlier format."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(CLIP, 1, "A"), write(CONDITIONAL_LM, 1, "A")])
    in_format(store, CONDITIONAL_LM, 2)
    kept = lookup(store.collection.find_one(), CONDITIONAL_LM.path)
    late = [write(CONDITIONAL_LM, 1, image, version="v2"), write(CLIP, 1, image, version="v2")]
    assert store.write_outputs(late).kept_away == {0}
    assert lookup(store.collection.find_one(), CONDITIONAL_LM.path) == kept
    in_format(store, CLIP, 2)
    newer = [write(CLIP, 2, image), write(CONDITIONAL_LM, 2, image)]
    assert store.write_outputs(newer).written == 2


@pytest.mark.parametrize("image", ["A", ""])
@pytest.mark.parametrize("number", [0, None, "1"])
def test_what_an_earlier_format_holds_is_made_again(store, number, image):
    """Fails without the format in `_differs`: nobody reads what then stays."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(CLIP, 1, "A")])
    in_format(store, CLIP, number)
    assert store.write_outputs([write(CLIP, 1, image)]).written == 1
    assert store.write_outputs([write(CLIP, 1, image)]).written == 0


def test_only_what_was_stored_counts_as_written(store):
    """Fails without `_stored`: MongoDB tells how many of a bulk it wrote, not which."""
    store.collection.insert_many([{"_id": 1}, {"_id": 2}])
    store.write_outputs([write(CLIP, 2, "A")])
    batch = [write(CLIP, 1, "A"), write(CLIP, 1, "A", document_id=2), write(CLIP, 3, "A")]
    gone = write(CLIP, 1, "A", document_id=3)
    report = store.write_outputs([*batch, gone])
    assert (set(report.done), set(report.kept_away)) == ({1, 2}, {0, 3})
