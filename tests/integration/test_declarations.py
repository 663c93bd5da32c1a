"""The declared pipeline in the state database."""

from pathlib import Path

import pytest
from bson import json_util

from streams.contract.declaration import Declaration, ModelState
from streams.contract.default_pipeline import DEFAULT
from streams.errors import InvalidPipeline, PointerConflict
from streams.mongo.declarations import Declarations

SAMPLE = Path(__file__).parents[1] / "samples" / "pipeline.json"
CLIP = Declaration(name="clip", kind="clip", key="img")
LINE = Declaration(
    name="line", kind="lines:Line", features={"img": "clip"}, options={"a": {"b.c": [1, None]}}
)


@pytest.fixture
def declared(database):
    return Declarations(database, "shop.pictures")


def declare(declared, *models, revision, reason="test"):
    return declared.replace(models, expected_revision=revision, reason=reason)


def test_the_default_pipeline_holds_until_another_one_is_declared(declared):
    assert (declared.read().revision, declared.read().pipeline) == (0, DEFAULT)
    stored = declare(declared, CLIP, LINE, revision=0)
    assert stored.revision == declared.read().revision == 1
    assert declared.read().pipeline.declarations == (CLIP, LINE) == stored.pipeline.declarations


def test_collections_have_pipelines_of_their_own(declared, database):
    declare(declared, CLIP, revision=0)
    assert Declarations(database, "shop.others").read().revision == 0


def test_every_revision_is_kept(declared):
    declare(declared, CLIP, revision=0, reason="one")
    declare(declared, CLIP, LINE, revision=1, reason="two")
    declare(declared, CLIP, revision=2, reason="three")
    assert [stored.revision for stored in declared.history()] == [0, 1, 2, 3]
    assert [stored.reason for stored in declared.history()][1:] == ["one", "two", "three"]
    assert declared.history()[2].pipeline.declarations == (CLIP, LINE)


def test_whoever_was_slower_is_told_so(declared):
    for revision in (0, 1):
        declare(declared, CLIP, revision=revision)
        with pytest.raises(PointerConflict, match="by somebody else meanwhile; look at it with"):
            declare(declared, CLIP, LINE, revision=revision)
        assert declared.read().pipeline.declarations == (CLIP,)


@pytest.mark.parametrize(("revision", "step"), [(0, "read"), (1, "read"), (1, "_keep")])
def test_whoever_was_slower_by_a_moment_is_told_so(declared, database, revision, step, monkeypatch):
    """Fails without the revision in the filters of `Declarations.replace` and `_keep`."""
    other = Declarations(database, "shop.pictures")
    for before in range(revision):
        declare(other, LINE.model_copy(update={"features": {}, "key": "x"}), revision=before)
    done = getattr(declared, step)

    def overtaken(*arguments):
        found = done(*arguments)
        declare(other, CLIP, revision=revision)
        return found

    monkeypatch.setattr(declared, step, overtaken)
    with pytest.raises(PointerConflict):
        declare(declared, CLIP, LINE, revision=revision)
    assert other.read().pipeline.declarations == (CLIP,)
    assert [stored.revision for stored in other.history()] == list(range(revision + 2))


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([LINE], "line names 'clip', which is no model"),
        ([CLIP.model_copy(update={"state": ModelState.INACTIVE}), LINE], "which is inactive"),
        ([CLIP.model_copy(update={"options": {"x": 2**70}})], "look at their options"),
        ([CLIP.model_copy(update={"options": {"x": "\ud800"}})], "look at their options"),
        ([CLIP.model_copy(update={"options": {"x": "y" * (2 << 20)}})], "at most 1048576"),
    ],
)
def test_what_is_no_pipeline_is_never_stored(declared, models, says):
    with pytest.raises(InvalidPipeline, match=says):
        declare(declared, *models, revision=0)
    assert declared.read().revision == 0


def test_the_recorded_sample_is_still_read(declared, database):
    """What a release before this one has stored."""
    row = json_util.loads(SAMPLE.read_text())
    database["pipeline"].insert_one(row)
    stored = declared.read()
    assert (stored.revision, stored.reason) == (7, "title lines")
    assert list(stored.pipeline.models) == ["clip", "colour"]
    line = stored.pipeline.declarations[2]
    assert (line.state, line.fields) == (ModelState.INACTIVE, ("title",))
    assert stored.pipeline.declarations[1].options == {"bins": 16, "space": "lab"}
    declared.replace(stored.pipeline.declarations, expected_revision=7, reason="again")
    again = database["pipeline"].find_one({"_id": row["_id"]})
    assert again["models"] == row["models"]
    assert again.keys() == row.keys()


def test_a_pipeline_of_a_later_release_is_refused_with_the_remedy(declared, database):
    row = json_util.loads(SAMPLE.read_text()) | {"format": 2}
    database["pipeline"].insert_one(row)
    with pytest.raises(InvalidPipeline, match=r"is stored in format 2 .* upgrade this process"):
        declared.read()
    with pytest.raises(InvalidPipeline, match="upgrade this process"):
        declare(declared, CLIP, revision=7)
    assert database["pipeline"].find_one({"_id": row["_id"]})["format"] == 2
