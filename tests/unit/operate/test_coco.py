"""COCO annotation files, good and bad."""

import json

import pytest

from streams.errors import SettingsError, bounded
from streams.operate.coco import read_annotations


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
    [image] = read_annotations(write(tmp_path), tmp_path).images
    assert image.document("train") == {
        "img": b"jpeg",
        "captions": ["one", "two"],
        "_fold": "train",
    }


def test_fold_is_left_out_when_not_given(tmp_path):
    (tmp_path / "9.jpg").write_bytes(b"jpeg")
    [image] = read_annotations(write(tmp_path), tmp_path).images
    assert "_fold" not in image.document(None)


def test_missing_image_file_is_named(tmp_path):
    [image] = read_annotations(write(tmp_path), tmp_path).images
    with pytest.raises(SettingsError, match=r"9\.jpg.*--images"):
        image.document(None)


def annotated(rows):
    return {"annotations": [{"image_id": 9, "caption": "one"}, *rows]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        *(
            ({"images": [{"id": 9, "file_name": name}]}, "image 9 cannot be used: its file_name")
            for name in ("../secret", "/etc/passwd", "a\0b", 5, None)
        ),
        *(
            ({"images": [{"id": image_id, "file_name": "9.jpg"}]}, "its id")
            for image_id in (None, 1.5, True, "x", [], 2**63, "9" * 5000)
        ),
        ({"images": [{"id": 9, "file_name": "9.jpg"}] * 2}, "its id stands in the file twice"),
        ({"images": [7]}, "image number 1 cannot be used: its id must be a whole number, got None"),
        *(
            (annotated([{"id": 4, "image_id": 9, "caption": caption}]), "annotation 4 cannot be")
            for caption in (None, float("nan"), 5, ["a", "b"], {"raw": "a"}, "", "   ", "!")
        ),
        (annotated([{"image_id": 9}]), "annotation number 2 cannot be used: its caption"),
        (annotated([{"image_id": None, "caption": "x"}]), "its image_id must be a whole number"),
        (annotated([{"image_id": 8, "caption": "x"}]), "captions of image 8, which is not listed"),
    ],
    ids=lambda value: bounded(str(value), 60),
)
def test_bad_row_is_passed_over_and_named(tmp_path, changes, expected):
    """Fails when one bad row ends the import, or when what is no text becomes "None" or "nan"."""
    file = read_annotations(write(tmp_path, **changes), tmp_path)
    assert expected in file.passed_over[0]
    assert all(len(line) < 300 for line in file.passed_over)
    assert [image.captions for image in file.images] in ([], [("one",)], [("one", "two")])


def test_ids_that_are_strings_of_digits_are_numbers(tmp_path):
    rows = {"images": [{"id": "000000000009", "file_name": "9.jpg"}]}
    [image] = read_annotations(write(tmp_path, **rows), tmp_path).images
    assert (image.image_id, image.captions) == (9, ("one", "two"))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"images": 3, "annotations": []}', '{"images": [], "annotations": [{}]}'],
)
def test_file_that_is_no_coco_file_is_refused(tmp_path, text):
    path = tmp_path / "captions.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="no COCO captions file"):
        read_annotations(path, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_unicode_in_other_encodings_is_read(tmp_path, encoding):
    """Fails without looking for a byte order mark."""
    path = write(tmp_path, annotations=[{"image_id": 9, "caption": "un café"}])
    path.write_bytes(path.read_text().encode(encoding))
    [image] = read_annotations(path, tmp_path).images
    assert image.captions == ("un café",)


def test_file_that_is_not_unicode_is_refused_in_one_short_line(tmp_path):
    """Fails when the driver's error, which holds the file, is shown."""
    path = write(tmp_path, annotations=[{"image_id": 9, "caption": "un cafe " * 10_000}])
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9", 1))
    with pytest.raises(SettingsError, match=r"is not UTF-8.*0xe9.*iconv") as raised:
        read_annotations(path, tmp_path)
    assert len(str(raised.value)) < 300 + len(str(path))
