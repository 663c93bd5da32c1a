"""What the demo counts, on documents of which some failed."""

import pytest

from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM, MODELS
from trainer.demo.feed import (
    CAPTIONED,
    CAPTIONED_OR_FAILED,
    EMBEDDED_OR_FAILED,
    FAILED,
    _brings_caption,
)
from trainer.demo.figures import read_captions
from trainer.demo.stack import environment

ERROR = {"error": {"type": "ModelFailed"}, "version": "v1"}
CAPTION = {"value": "a red cross", "version": "v1"}


@pytest.fixture
def documents(mongo_database):
    """One captioned, one for each model that failed, one that waits."""
    collection = mongo_database["documents"]
    collection.insert_many({"_id": model.name} for model in MODELS)
    for model in MODELS:
        collection.update_one({"_id": model.name}, {"$set": {model.path: ERROR}})
    collection.insert_one({"_id": "good"})
    vector = {"value": b"\0\1", "version": "v1"}
    good = {CLIP.path: vector, CLIP_PROJECTION.path: vector, CONDITIONAL_LM.path: CAPTION}
    collection.update_one({"_id": "good"}, {"$set": good})
    collection.insert_one({"_id": "waits"})
    return collection


def test_what_failed_is_no_caption_and_is_not_waited_for(documents):
    """Fails with `.version` for `.value`, which errors have too, and with errors of CLIP alone."""
    assert documents.count_documents(CAPTIONED) == 1
    assert documents.count_documents(FAILED) == 3
    assert documents.count_documents(CAPTIONED_OR_FAILED) == 4
    assert documents.count_documents(EMBEDDED_OR_FAILED) == 4
    ids = [row["_id"] for row in documents.find()]
    assert read_captions(documents, ids) == {"good": "a red cross"}


@pytest.mark.parametrize(
    ("fields", "is_caption"),
    [
        ({"_outputs": {"_base": {"conditional_lm": CAPTION}}}, True),
        ({"_outputs._base": {"conditional_lm": CAPTION}}, True),
        ({"_outputs._base.conditional_lm": CAPTION}, True),
        ({"_outputs._base.conditional_lm": ERROR}, False),
        ({"_outputs.img": {"clip": CAPTION}}, False),
        ({"_outputs": {"img": {}}, "captions": ["x"]}, False),
    ],
)
def test_the_feed_sees_captions_and_not_errors(fields, is_caption):
    assert _brings_caption({"updateDescription": {"updatedFields": fields}}) is is_caption


def test_the_demo_brings_its_own_clip(monkeypatch):
    """Fails if the shell decides: the captioner would learn from noise."""
    monkeypatch.setenv("CAPTIONSTREAM_CLIP__PRETRAINED", "random")
    monkeypatch.setenv("CAPTIONSTREAM_CLIP__MODEL", "RN50")
    monkeypatch.setenv("CAPTIONSTREAM_LOG__LEVEL", "debug")
    found = environment()
    assert found["CAPTIONSTREAM_CLIP__PRETRAINED"] == "bundled"
    assert found["CAPTIONSTREAM_CLIP__MODEL"] == "scenes"
    assert found["CAPTIONSTREAM_LOG__LEVEL"] == "debug"
