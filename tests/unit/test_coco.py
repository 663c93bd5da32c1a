"""COCO annotation files, good and bad."""

import json

import pytest

from streams.coco import read_annotations
from streams.errors import SettingsError


def write(tmp_path, **changes):
    data = {
        "images": [{"id": 9, "file_name": "9.jpg"}],
        "annotations": [
            {"image_id": 9, "caption": "one"},
            {"image_id": 9, "caption": "two"},
        ],
        **changes,
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(data))
    return path


def test_captions_are_gathered_by_image(tmp_path):
    (tmp_path / "9.jpg").write_bytes(b"jpeg")
    [image] = read_annotations(write(tmp_path), tmp_path)
    assert image.document("train") == {
        "img": b"jpeg",
        "captions": ["one", "two"],
        "_fold": "train",
    }


def test_fold_is_left_out_when_not_given(tmp_path):
    (tmp_path / "9.jpg").write_bytes(b"jpeg")
    [image] = read_annotations(write(tmp_path), tmp_path)
    assert "_fold" not in image.document(None)


def test_missing_image_file_is_named(tmp_path):
    [image] = read_annotations(write(tmp_path), tmp_path)
    with pytest.raises(SettingsError, match=r"9\.jpg.*--images"):
        image.document(None)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", 5])
def test_file_name_that_leaves_the_directory_is_refused(tmp_path, name):
    path = write(tmp_path, images=[{"id": 9, "file_name": name}])
    with pytest.raises(SettingsError, match="file_name"):
        read_annotations(path, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3, "annotations": []}'])
def test_file_that_is_no_coco_file_is_refused(tmp_path, text):
    path = tmp_path / "captions.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="no COCO captions file"):
        read_annotations(path, tmp_path)
