"""What a snapshot takes of a document: for any models, with outputs of any form."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from streams.contract.declaration import Declaration
from streams.contract.pipeline import compile_pipeline
from streams.contract.values import encode_vector
from streams.errors import InvalidSnapshot, ModelNotFound
from tests.unit.trainer.snapshots import CLIP, colour_rows, write_snapshot
from trainer.snapshot.columns import Reads, from_json, inputs_of, to_json, wanted_of
from trainer.snapshot.content import content_of, projection_of, query_of
from trainer.snapshot.files import MANIFEST, Snapshot
from trainer.snapshot.manifest import FORMAT_VERSION
from trainer.snapshot.reader import Row

PIPELINE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="tags", kind="a.b:Tags", key="img", features={"img": "clip"}),
        Declaration(
            name="story",
            kind="a.b:Story",
            features={"img": "clip", "tags": "tags"},
            fields=("title",),
        ),
        Declaration(name="parts", kind="a.b:Parts", key="captions"),
    ]
)
VERSIONS = {"clip": "c1", "tags": "t1", "parts": "p1"}
WANTED = wanted_of(Reads(pipeline=PIPELINE, learned=("mood", "_outputs.parts")), VERSIONS)


def document(**changes):
    vector = encode_vector(np.array([1.0, 2.0], np.float32))
    img = {
        "clip": {"value": vector, "version": "c1", "features": {}},
        "tags": {"value": ["a", "b"], "version": "t1", "features": {"clip": "c1"}},
    }
    img |= changes.pop("img", {})
    return {"_id": 1, "captions": ["x"], "title": "T", "_outputs": {"img": img}, **changes}


def test_every_model_gets_its_columns():
    assert inputs_of(PIPELINE.models["story"]) == {
        "img": "feature/clip",
        "tags": "feature/tags",
        "title": "field/title",
    }
    assert WANTED.models == {
        "tags": ("feature/clip",),
        "story": ("feature/clip", "feature/tags", "field/title"),
        "parts": (),
    }
    assert set(WANTED.features) == {"clip", "tags", "parts"}
    assert WANTED.fields == ("title", "mood")
    assert "img" not in projection_of(WANTED)


def test_vectors_are_vectors_and_all_else_is_json():
    found = content_of(document(), WANTED)
    assert found.values["feature/clip"].tolist() == [1.0, 2.0]
    assert from_json(found.values["feature/tags"]) == ["a", "b"]
    assert from_json(found.values["field/title"]) == "T"
    assert found.missing == {"feature/parts": "without_output", "field/mood": "without_field"}
    assert content_of(document(), WANTED, with_values=False).missing == found.missing


@pytest.mark.parametrize(
    ("img", "reason"),
    [
        ({"tags": {"value": ["a"], "version": "t0", "features": {"clip": "c1"}}}, "other_version"),
        ({"tags": {"value": ["a"], "version": "t1", "features": {"clip": "c0"}}}, "other_version"),
        ({"tags": {"error": {"type": "X"}, "version": "t1"}}, "failed"),
        ({"tags": {"value": None, "version": "t1"}}, "unreadable"),
        ({"tags": None}, "without_output"),
    ],
)
def test_output_that_is_not_current_is_missing(img, reason):
    """The second: made by the version that serves, of an older output than the one that does."""
    found = content_of(document(img=img), WANTED)
    assert found.missing["feature/tags"] == reason
    assert "feature/clip" in found.values


def test_failure_upstream_is_no_output_to_come():
    """Fails if only the model itself is asked: a refresh of the validation set waited for ever."""
    failed = {"clip": {"error": {"type": "X"}, "version": "c1"}, "tags": None}
    assert content_of(document(img=failed), WANTED).missing["feature/tags"] == "failed"


def test_what_teaches_nothing_is_left_out():
    assert content_of(document(captions=[]), WANTED).unusable(WANTED) == "without_captions"
    assert content_of(document(captions=[], mood="sad"), WANTED).unusable(WANTED) is None


def test_documents_are_looked_for_by_what_is_read():
    wanted = wanted_of(Reads(pipeline=PIPELINE), {"clip": "c1"})
    assert set(wanted.models) == {"tags", "parts"}
    only = compile_pipeline(PIPELINE.declarations[:2])
    assert query_of(wanted_of(Reads(pipeline=only), {"clip": "c1"})) == {
        "$or": [{"_outputs.img.clip.version": "c1"}]
    }


def test_what_cannot_be_read_yet_is_said():
    only = compile_pipeline(PIPELINE.declarations[:2])
    with pytest.raises(ModelNotFound, match=r"no version serves .* \(clip\)"):
        wanted_of(Reads(pipeline=only), {})
    with pytest.raises(ModelNotFound, match="no active model is called so"):
        wanted_of(Reads(pipeline=only, learned=("_outputs.nonesuch",)), {"clip": "c1"})


@pytest.mark.parametrize(
    "value",
    ["text", 3, 2.5, float("inf"), True, [1, {"a": None}], datetime(2026, 1, 2, tzinfo=UTC)],
)
def test_a_field_comes_back_as_it_stood(value):
    assert from_json(to_json(value)) == value


def test_rows_lack_what_their_documents_lack(tmp_path):
    def rows():
        for row in colour_rows(12):
            values = dict(row.values)
            if int(row.id) % 2:
                values |= {"feature/tags": to_json(["a"]), "field/title": to_json("T")}
            if int(row.id) == 4:
                values["feature/tags"] = np.ones(3, np.float32)  # a vector among texts
            yield Row(id=row.id, fold=row.fold, captions=row.captions, values=values)

    snapshot = write_snapshot(
        tmp_path, rows(), reads=Reads(pipeline=PIPELINE), dimensions={"clip": 8, "tags": None}
    )
    found = [row for batch in snapshot.batches() for row in batch.to_pylist()]
    assert [row["feature/tags"] for row in found] == [None, '["a"]'] * 6
    assert [row["field/title"] for row in found] == [None, '"T"'] * 6
    assert all(len(row["feature/clip"]) == 8 for row in found)
    counts = snapshot.manifest.models
    assert sum(counts["story"].values()) == 6
    assert sum(counts["tags"].values()) == 12


def test_snapshot_of_another_format_is_refused_with_the_remedy(tmp_path):
    snapshot = write_snapshot(tmp_path, colour_rows(5))
    path = snapshot.directory / MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["format_version"] == FORMAT_VERSION
    assert CLIP in snapshot.batches().__next__().schema.names
    del manifest["features"]
    path.write_text(json.dumps({**manifest, "format_version": 1, "clip_version": "c"}))
    with pytest.raises(InvalidSnapshot, match=r"has format 1, .*: remove the directory"):
        Snapshot.open(snapshot.directory)
