"""The frozen validation set: what is drawn, that it stays, and what damages it."""

import numpy as np
import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    OutputError,
)
from streams.contract.folds import fold_of
from streams.contract.ids import document_id_of, document_key
from streams.contract.writes import OutputWrite
from streams.errors import InvalidValidationSet, TooLittleData
from streams.mongo.client import state_database
from streams.mongo.store import DocumentStore
from tests.integration.trainer_data import (
    READS,
    SOURCE,
    announce_clip,
    clip_write,
    seed_documents,
)
from tests.pipelines import CLIP
from trainer.evaluate.validation_sample import create_validation_set
from trainer.snapshot.validation_set import ValidationSets

VECTOR = "feature/clip"


@pytest.fixture
def sets(client, settings):
    return ValidationSets(state_database(client, settings.mongo))


def create(client, settings, **options):
    return create_validation_set(
        client, settings.mongo, READS, sample_size=5, chunk_size=2, **options
    )


def test_sample_is_of_the_test_fold_frozen_and_read_again(client, settings, documents, sets):
    seed_documents(client, settings, 200)
    seed_documents(client, settings, 20, fold="test", first_id=500)
    seed_documents(client, settings, 20, fold="train", first_id=600)
    seed_documents(client, settings, 20, fold="valid", first_id=650)
    documents.update_many({"_id": {"$gte": 500}}, {"$set": {"scene": {"relation": "above"}}})
    made = create(client, settings)
    test = [*range(500, 520), *(i for i in range(200) if fold_of({"_id": i}) == "test")]
    assert len(made.entries) == 5
    assert {entry.id for entry in made.entries} <= {document_key(i).decode() for i in test}
    documents.update_many({}, {"$set": {"captions": ["changed"]}})
    seed_documents(client, settings, 20, fold="test", first_id=700)
    for found in (create(client, settings), sets.get("default")):
        assert found.digest == made.digest
        assert [e.id for e in found.entries] == [e.id for e in made.entries]
        assert [e.captions for e in found.entries] == [e.captions for e in made.entries]
        assert [e.scene for e in found.entries] == [e.scene for e in made.entries]
        for mine, theirs in zip(found.entries, made.entries, strict=True):
            assert np.array_equal(mine.values[VECTOR], theirs.values[VECTOR])
    assert {e.scene["relation"] if e.scene else None for e in made.entries} <= {"above", None}


def test_sample_follows_from_the_seed_and_not_from_the_order(client, settings, documents):
    seed_documents(client, settings, 30, fold="test")
    first = create(client, settings, name="a", seed=1)
    kept = list(documents.find())
    documents.drop()
    documents.insert_many(reversed(kept))
    assert create(client, settings, name="b", seed=1).digest == first.digest
    assert create(client, settings, name="c", seed=2).digest != first.digest


def test_fewer_documents_than_asked_for_are_all_taken(client, settings, documents):
    seed_documents(client, settings, 3, fold="test")
    made = create(client, settings)
    assert (len(made.entries), made.sample_size) == (3, 5)


def test_what_is_no_caption_is_passed_over_and_counted(client, settings, documents, sets):
    seed_documents(client, settings, 3, fold="TEST")
    odd = [None, float("nan"), 5, ["a", "b"], {"raw": "a"}, "", "42"]
    documents.update_one({"_id": 0}, {"$push": {"captions": {"$each": odd}}})
    documents.update_one({"_id": 1}, {"$set": {"captions": [None, "7"]}})
    made = create(client, settings)
    assert {entry.id for entry in made.entries} == {document_key(i).decode() for i in (0, 2)}
    assert {caption for entry in made.entries for caption in entry.captions} == {
        *("a picture of number 0", "a picture of number 2", "a number")
    }
    assert sets.get("default").passed_over == made.passed_over == len(odd)


def test_no_document_of_the_test_fold_is_a_clear_error(client, settings, documents):
    seed_documents(client, settings, 3, fold="train")
    with pytest.raises(TooLittleData, match="_fold"):
        create(client, settings)


def test_other_options_under_the_same_name_are_refused(client, settings, documents):
    seed_documents(client, settings, 9, fold="test")
    create(client, settings)
    with pytest.raises(InvalidValidationSet, match="--name"):
        create(client, settings, seed=7)


def test_change_of_clip_needs_a_refresh_that_keeps_the_documents(client, settings, documents, sets):
    seed_documents(client, settings, 9, fold="test")
    before = create(client, settings)
    announce_clip(client, settings, "clip-test-2")
    with pytest.raises(InvalidValidationSet, match="--refresh"):
        create(client, settings)
    store = DocumentStore(client, settings.mongo, DEFAULT)
    ids = [document_id_of(entry.id.encode()) for entry in before.entries]
    writes = [clip_write(i, [9, 9, 9, i], version="clip-test-2") for i in ids]
    store.write_outputs(writes[:-1])
    with pytest.raises(TooLittleData, match="1 documents of the validation set"):
        create(client, settings, refresh=True)
    store.write_outputs(writes)
    documents.delete_one({"_id": ids[0]})
    after = create(client, settings, refresh=True)
    gone = {document_key(ids[0]).decode()}
    assert [e.id for e in after.entries] == [e.id for e in before.entries if e.id not in gone]
    assert all(entry.values[VECTOR][0] == 9 for entry in after.entries)
    assert sets.get("default").digest == after.digest
    chunks = state_database(client, settings.mongo)["validation_set_chunks"]
    assert chunks.count_documents({"digest": before.digest}) == 0


def test_what_will_never_have_a_new_vector_does_not_hold_a_refresh_up(client, settings, documents):
    """Fails without `_NOT_YET`: whatever was alive and gave no entry counted as to come."""
    seed_documents(client, settings, 9, fold="test")
    before = create(client, settings)
    announce_clip(client, settings, "clip-test-2")
    ids = [document_id_of(entry.id.encode()) for entry in before.entries]
    failed, mute, *good = ids
    error = OutputError(
        type="InvalidImage", message="", attempts=1, is_retryable=False, version="clip-test-2"
    )
    DocumentStore(client, settings.mongo, DEFAULT).write_outputs(
        [
            OutputWrite(document_id=failed, source=SOURCE, model=CLIP, result=error),
            *(clip_write(i, [9, 9, 9, i], version="clip-test-2") for i in good),
        ]
    )
    documents.update_one({"_id": mute}, {"$unset": {"captions": 1}})
    after = create(client, settings, refresh=True)
    assert [entry.id for entry in after.entries] == [document_key(i).decode() for i in good]


def test_damaged_and_missing_sets_name_the_remedy(client, settings, documents, sets):
    with pytest.raises(InvalidValidationSet, match="validation-set create"):
        sets.get("default")
    seed_documents(client, settings, 9, fold="test")
    create(client, settings)
    chunks = state_database(client, settings.mongo)["validation_set_chunks"]
    chunks.update_one({"number": 1}, {"$set": {"entries.0.captions": ["forged"]}})
    with pytest.raises(InvalidValidationSet, match="damaged"):
        sets.get("default")
    create(client, settings, name="old")
    heads = state_database(client, settings.mongo)["validation_sets"]
    heads.update_one({"_id": "old"}, {"$set": {"format": 0}})
    with pytest.raises(InvalidValidationSet, match="create it again"):
        sets.get("old")
    chunks.delete_many({})
    with pytest.raises(InvalidValidationSet, match="damaged"):
        sets.get("default")
