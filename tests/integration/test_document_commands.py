"""`insert`, `import-coco` and `show`, with what users really hand to them."""

import io
import json

import pytest
from PIL import Image

from streams.documents import CLIP

MB = 1 << 20


def picture(kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 90, 200)).save(data, kind)
    return data.getvalue()


def test_files_and_directories_become_documents(captionstream, documents, tmp_path):
    (tmp_path / "trip").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / "trip" / name).write_bytes(picture())
    (tmp_path / "one.png").write_bytes(picture("JPEG"))
    done = captionstream("insert", str(tmp_path / "one.png"), str(tmp_path / "trip"))
    assert (done.code, done.err) == (0, "")
    stored = [(str(row["_id"]), row["name"], row["img"]) for row in documents.find()]
    assert [name for _, name, _ in stored] == ["one.png", "a.JPG", "b.png"]
    assert stored[0][2] == picture("JPEG")
    assert done.out.splitlines() == [f"{key}  {name}" for key, name, _ in stored]


def test_what_cannot_be_inserted_is_named_and_the_rest_goes_in(captionstream, documents, tmp_path):
    """Fails when the first bad source ends the command, and without `check_size`."""
    (tmp_path / "big.tif").write_bytes(bytes(17 * MB))
    (tmp_path / "empty").mkdir()
    odd = tmp_path / "odd\udcff.png"
    for path in (odd, tmp_path / "good.png"):
        path.write_bytes(picture())
    bad = ("big.tif", "gone.png", "empty")
    sources = [*(str(tmp_path / name) for name in bad), "http://[", "http://127.0.0.1:9/a.png"]
    done = captionstream("insert", *sources, str(odd), str(tmp_path / "good.png"))
    assert done.code == 2
    wrong = done.err.splitlines()
    assert all(line.startswith("captionstream: ") for line in wrong)
    assert (
        "big.tif cannot be stored: it has 17.0 MB, and a document of MongoDB at most 16" in wrong[0]
    )
    assert "cannot read" in wrong[1]
    assert "no images in" in wrong[2]
    assert "http://[ cannot be fetched" in wrong[3]
    assert "open it with CAPTIONSTREAM_FETCH__ALLOW_HOSTS" in wrong[4]
    assert len(wrong) == len(sources)
    assert [row["name"] for row in documents.find()] == ["odd\ufffd.png", "good.png"]


def test_coco_image_that_mongodb_cannot_store_is_named(captionstream, documents, tmp_path):
    """Fails without `check_size` in `import_coco`."""
    (tmp_path / "1.tif").write_bytes(bytes(17 * MB))
    for image in (2, 3):
        (tmp_path / f"{image}.png").write_bytes(picture())
    names = ("1.tif", "2.png", "3.png")
    annotations = tmp_path / "captions.json"
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names, start=1)],
        "annotations": [{"image_id": 2, "caption": "\ud800"}, {"image_id": 3, "caption": "a dog"}],
    }
    annotations.write_text(json.dumps(content))
    arguments = ("import-coco", "--annotations", str(annotations), "--images", str(tmp_path))
    done = captionstream(*arguments)
    assert (done.code, done.out) == (2, "1 images, 1 of them new\n")
    large, odd = done.err.splitlines()
    assert "1.tif cannot be stored: it has 17.0 MB" in large
    assert "2.png cannot be stored" in odd
    assert [row["_id"] for row in documents.find()] == [3]
    assert "0 of them new" in captionstream(*arguments).out


@pytest.mark.parametrize(
    "fields",
    [
        {"captions": 5, "_outputs": 5},
        {"captions": {"a": 1}, "_outputs": {"img": 5, "_base": None}},
        {"captions": [5, None], "_outputs": {"img": {"clip": {"x": 1}}, "_base": [1]}},
        {"_outputs": {"img": {"clip": {"value": b"123", "error": 5}, "clip_projection": 7}}},
        {"_outputs": {"_base": {"conditional_lm": {"value": "a dog", "score": "high"}}}},
    ],
    ids=str,
)
def test_documents_of_any_shape_are_shown(captionstream, documents, fields):
    """Fails when `show` trusts what stands in a document."""
    documents.insert_one({"_id": "odd", **fields})
    done = captionstream("show", "odd")
    assert (done.code, done.err) == (0, "")
    assert f"{CLIP.name:15s} " in done.out
    assert captionstream("show", "odd", "--json").code == 0
