"""Snapshots of a real collection: what is in them, what is not, and at which moment."""

import json
import subprocess
import sys

import numpy as np
import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    OutputError,
)
from streams.contract.folds import fold_of
from streams.contract.ids import document_key
from streams.contract.writes import OutputWrite
from streams.errors import (
    InvalidSnapshot,
    ModelNotFound,
    StoreUnavailable,
    TooLittleData,
    TrainerError,
)
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
from trainer.snapshot import rows as snapshot_rows
from trainer.snapshot import writer as snapshot_writer
from trainer.snapshot.files import DOCUMENTS, Snapshot, find_snapshot
from trainer.snapshot.writer import take_snapshot


def rows_of(snapshot, **options):
    return [row for batch in snapshot.batches(**options) for row in batch.to_pylist()]


def test_rows_are_the_documents_in_their_order(client, settings, documents, tmp_path):
    of_all = {i: fold_of({"_id": i}) for i in seed_documents(client, settings, 60)}
    ids = [i for i, fold in of_all.items() if fold != "test"]
    taken = take_snapshot(client, settings.mongo, tmp_path, READS)
    rows = rows_of(taken)
    assert set(of_all.values()) == {"train", "valid", "test"}
    assert [row["id"] for row in rows] == [document_key(i).decode() for i in ids]
    assert [row["fold"] for row in rows] == [of_all[i] for i in ids]
    assert rows[7]["captions"] == [f"a picture of number {ids[7]}", "a number"]
    expected = np.random.default_rng(ids[7]).standard_normal(4).astype(np.float32)
    assert np.array_equal(np.array(rows[7]["feature/clip"], np.float32), expected)
    folds = [row["fold"] for row in rows]
    assert taken.manifest.folds == {name: folds.count(name) for name in set(folds)}
    train = rows_of(taken, columns=["id"], fold="train")
    assert train == [{"id": row["id"]} for row in rows if row["fold"] == "train"]


def test_what_cannot_be_learned_from_is_counted_by_reason(client, settings, documents, tmp_path):
    seed_documents(client, settings, 3, fold="train")
    documents.insert_many(
        [
            {"_id": "held", "captions": ["x", None], "_fold": "Testing"},
            {"_id": "typo", "captions": ["x"], "_fold": "trian"},
            {"_id": "raw", "captions": ["x"]},
            {"_id": "old", "captions": ["x"]},
            {"_id": "bad", "captions": ["x"]},
            {"_id": "mute"},
            {"_id": "odd", "captions": [None, " ", 3, "42"]},
            {"_id": "text", "captions": "no list"},
            {"_id": "mixed", "captions": [None, "a caption", float("nan"), ["b"]], "_fold": "Val"},
            {"_id": "long", "captions": ["x"]},
            {"_id": "nan", "captions": ["x"]},
        ]
    )
    error = OutputError(type="InvalidImage", message="no", attempts=1, is_retryable=False)
    vector = np.ones(4)
    DocumentStore(client, settings.mongo, DEFAULT).write_outputs(
        [
            clip_write("old", vector, version="clip-old"),
            OutputWrite(document_id="bad", source=SOURCE, model=CLIP, result=error),
            *(clip_write(i, vector) for i in ("held", "typo", "mute", "odd", "text", "mixed")),
            clip_write("long", np.ones(5)),
            clip_write("nan", np.full(4, np.nan)),
        ]
    )
    manifest = take_snapshot(client, settings.mongo, tmp_path, READS).manifest
    assert manifest.folds == {"train": 3, "valid": 1}
    assert manifest.counts.model_dump() == {
        "documents": 14,
        "included": 4,
        "held_out": 1,
        "unknown_fold": 1,
        "without_captions": 3,
        "without_field": 0,
        "without_output": 1,
        "other_version": 1,
        "failed": 1,
        "unreadable": 2,
        "unusable_captions": 9,
    }
    assert [remark.split()[:2] for remark in manifest.counts.remarks()] == [
        ["1", "documents"],
        ["9", "values"],
    ]


def test_what_versions_are_measured_on_is_never_learned_from(client, settings, documents, tmp_path):
    """Whatever becomes of its fold. Fails if only the fold is asked."""
    seed_documents(client, settings, 5, fold="train")
    frozen = seed_documents(client, settings, 4, fold="test", first_id=100)
    create_validation_set(client, settings.mongo, READS)
    documents.update_many({"_id": {"$in": frozen}}, {"$set": {"_fold": "train"}})
    taken = take_snapshot(client, settings.mongo, tmp_path, READS)
    assert [row["id"] for row in rows_of(taken)] == [document_key(i).decode() for i in range(5)]
    assert taken.manifest.counts.held_out == 4


def test_writes_during_the_snapshot_do_not_appear_in_it(
    client, settings, documents, tmp_path, monkeypatch
):
    seed_documents(client, settings, 300, fold="train")
    plain = take_snapshot(client, settings.mongo, tmp_path / "before", READS).manifest
    monkeypatch.setattr("trainer.snapshot.reader._BATCH", 20)
    disturbed = False
    hash_row = snapshot_rows._hash

    def disturb(row, digest):
        nonlocal disturbed
        if not disturbed:
            disturbed = True
            documents.update_many({}, {"$set": {"captions": ["changed meanwhile"]}})
            documents.delete_many({"_id": {"$gte": 250}})
            seed_documents(client, settings, 10, first_id=1000, fold="train")
        hash_row(row, digest)

    monkeypatch.setattr(snapshot_rows, "_hash", disturb)
    taken = take_snapshot(client, settings.mongo, tmp_path / "during", READS).manifest
    assert disturbed
    assert taken.content_hash == plain.content_hash
    after = take_snapshot(client, settings.mongo, tmp_path / "after", READS).manifest
    assert after.counts.included == 260


def test_equal_content_has_an_equal_id_and_is_kept_once(client, settings, documents, tmp_path):
    seed_documents(client, settings, 5, fold="train")
    first = take_snapshot(client, settings.mongo, tmp_path, READS)
    documents.update_many({}, {"$set": {"unrelated": 1}})
    again = take_snapshot(client, settings.mongo, tmp_path, READS)
    assert again.directory == first.directory
    assert again.manifest.content_hash == first.manifest.content_hash
    documents.update_one({"_id": 3}, {"$push": {"captions": "one more"}})
    other = take_snapshot(client, settings.mongo, tmp_path, READS)
    assert other.manifest.snapshot_id != first.manifest.snapshot_id
    assert find_snapshot(tmp_path, "latest").manifest == other.manifest
    found = find_snapshot(tmp_path, first.manifest.snapshot_id[:6])
    assert found.manifest == again.manifest
    documents.update_one({"_id": 3}, {"$pop": {"captions": 1}})
    back = take_snapshot(client, settings.mongo, tmp_path, READS)
    assert back.directory == first.directory
    assert find_snapshot(tmp_path, "latest").manifest == back.manifest
    assert not list(tmp_path.glob("snapshots/.taking*"))


def test_moment_that_the_server_forgot_names_the_parameter(
    client, settings, documents, tmp_path, monkeypatch
):
    seed_documents(client, settings, 5, fold="train")
    now = snapshot_writer.cluster_time(client)
    long_ago = type(now)(now.time - 100_000, 1)
    monkeypatch.setattr(snapshot_writer, "cluster_time", lambda _: long_ago)
    with pytest.raises(StoreUnavailable, match="minSnapshotHistoryWindowInSeconds"):
        take_snapshot(client, settings.mongo, tmp_path, READS)


def test_nothing_to_learn_from_is_a_clear_error(client, settings, documents, tmp_path):
    documents.insert_one({"_id": 1, "captions": ["x"]})
    with pytest.raises(ModelNotFound, match=r"no version serves .* \(clip\)"):
        take_snapshot(client, settings.mongo, tmp_path, READS)
    announce_clip(client, settings)
    with pytest.raises(TooLittleData, match="1 without output"):
        take_snapshot(client, settings.mongo, tmp_path, READS)
    assert list(tmp_path.glob("snapshots/*")) == []


def test_directory_that_cannot_be_written_is_named(client, settings, documents, tmp_path):
    seed_documents(client, settings, 5, fold="train")
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.raises(TrainerError, match="cannot write a snapshot"):
        take_snapshot(client, settings.mongo, tmp_path, READS)


def test_damaged_snapshot_is_refused(client, settings, documents, tmp_path):
    seed_documents(client, settings, 50, fold="train")
    taken = take_snapshot(client, settings.mongo, tmp_path, READS)
    path = taken.directory / DOCUMENTS
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidSnapshot, match="damaged"):
        rows_of(Snapshot.open(taken.directory))
    path.write_bytes(data[:100])
    with pytest.raises(InvalidSnapshot, match="damaged"):
        Snapshot.open(taken.directory)
    path.unlink()
    with pytest.raises(InvalidSnapshot, match="take one"):
        find_snapshot(tmp_path, "latest")


def test_command_prints_the_manifest(client, settings, documents, tmp_path):
    seed_documents(client, settings, 5, fold="train")
    environment = {
        "PATH": "/usr/bin:/bin",
        "CAPTIONSTREAM_MONGO__URI": settings.mongo.uri.get_secret_value(),
        "CAPTIONSTREAM_MONGO__DATABASE": settings.mongo.database,
        "CAPTIONSTREAM_MONGO__COLLECTION": settings.mongo.collection,
        "CAPTIONSTREAM_TRAINER__DIRECTORY": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli", "snapshot", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["counts"]["included"] == 5
    assert found["snapshot_id"] == find_snapshot(tmp_path, "latest").manifest.snapshot_id
