"""Scenes as documents and as pictures."""

import io
import json

import bson
import numpy as np
import pytest
from bson.int64 import Int64
from PIL import Image

from streams.errors import SettingsError
from trainer.scenes.scenes import SIDE, Scene, make_scenes


def test_scenes_follow_from_the_seed():
    first, again, other = (list(make_scenes(50, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_scene_survives_the_way_through_a_document():
    scenes = list(make_scenes(200, seed=3))
    documents = [json.loads(json.dumps(scene.as_document())) for scene in scenes]
    assert [Scene.from_document(document) for document in documents] == scenes


def test_document_has_the_fields_that_others_read():
    document = next(make_scenes(1, seed=4)).as_document()
    assert set(document) == {"first", "second", "relation", "background", "jitter"}
    assert set(document["first"]) == {"shape", "colour", "size"}


def test_further_fields_of_a_document_are_passed_over():
    scene = next(make_scenes(1, seed=5))
    assert Scene.from_document({**scene.as_document(), "note": 1}) == scene


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": "beside"}, r"`scene\.relation` is 'beside', expected one of left of, right"),
        ({"background": None}, r"`scene\.background` is None, expected one of white"),
        ({"first": {"shape": "circle", "size": "small"}}, r"`scene\.first\.colour` is missing"),
        ({"second": "a circle"}, r"`scene\.second\.shape` is missing"),
        ({"first": {"shape": ["circle"]}}, r"`scene\.first\.shape` is \['circle'\], expected one"),
        ({"jitter": [1, "2"]}, r"`scene\.jitter` is \[1, '2'\], expected two whole numbers"),
        ({"jitter": [True, 1]}, r"`scene\.jitter` is \[True, 1\], expected two"),
        ({"jitter": [1]}, r"`scene\.jitter` is \[1\], expected two"),
        ({"jitter": 7}, r"`scene\.jitter` is 7, expected two"),
    ],
)
def test_bad_document_names_the_field(change, message):
    document = next(make_scenes(1, seed=6)).as_document() | change
    with pytest.raises(SettingsError, match=message):
        Scene.from_document(document)


@pytest.mark.parametrize("document", [{}, None, "a scene"])
def test_what_is_no_scene_at_all_is_named(document):
    with pytest.raises(SettingsError, match=r"`scene\.jitter` is missing"):
        Scene.from_document(document)


def test_numbers_may_come_as_mongodb_stores_them():
    scene = next(make_scenes(1, seed=8))
    stored = bson.decode(bson.encode({**scene.as_document(), "jitter": [Int64(2), Int64(-3)]}))
    assert Scene.from_document(stored).jitter == (2, -3)


def test_largest_objects_stay_inside_the_picture():
    """The outermost pixels show the background only."""
    for scene in make_scenes(500, seed=9):
        pixels = np.asarray(scene.image())
        corner = pixels[0, 0]
        assert (pixels[[0, -1]] == corner).all()
        assert (pixels[:, [0, -1]] == corner).all()


def test_picture_of_a_document_is_the_scenes_own():
    scene = next(make_scenes(1, seed=7))
    with Image.open(io.BytesIO(scene.png())) as picture:
        assert picture.size == (SIDE, SIDE)
        assert picture.tobytes() == Scene.from_document(scene.as_document()).image().tobytes()
