"""`insert`, `import-coco` and `show`, with what users really hand to them."""

import io
import json

import pytest
from PIL import Image

from tests.pipelines import CLIP

MB = 1 << 20


def picture(kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 90, 200)).save(data, kind)
    return data.getvalue()


def test_files_and_directories_become_documents(captionstream, documents, tmp_path):
    """Suffixes are Pillow's. Fails with a list of our own, and when directories are not entered."""
    inside = tmp_path / "trip" / "day 2" / "evening"
    inside.mkdir(parents=True)
    for name in (
        "b.png",
        "a.JPG",
        "c.jfif",
        "d.HEIC",
        "day 2/d.jpe",
        "day 2/evening/e.avif",
        ".hidden",
    ):
        (tmp_path / "trip" / name).write_bytes(picture())
    (tmp_path / "one").write_bytes(picture("JPEG"))
    done = captionstream("insert", str(tmp_path / "one"), str(tmp_path / "trip"))
    assert (done.code, done.err) == (0, "")
    stored = [(str(row["_id"]), row["name"], row["img"]) for row in documents.find()]
    names = ["one", "a.JPG", "b.png", "c.jfif", "d.HEIC", "day 2/d.jpe", "day 2/evening/e.avif"]
    assert [name for _, name, _ in stored] == names
    assert stored[0][2] == picture("JPEG")
    assert done.out.splitlines() == [f"{key}  {name}" for key, name, _ in stored]


def test_what_cannot_be_inserted_is_named_and_the_rest_goes_in(captionstream, documents, tmp_path):
    """Fails when the first bad source ends the command, and without `check_size`."""
    (tmp_path / "big.tif").write_bytes(bytes(17 * MB))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "up").symlink_to(tmp_path)
    odd = tmp_path / "odd\udcff.png"
    for path in (odd, tmp_path / "mixed" / "good.png", tmp_path / "mixed" / "notes.txt"):
        path.write_bytes(picture())
    bad = ("big.tif", "gone.png", "empty")
    urls = ("http://[", "HTTP://127.0.0.1:9/a.png", "s3://bucket/a.png")
    sources = [*(str(tmp_path / name) for name in bad), *urls]
    done = captionstream("insert", *sources, str(odd), str(tmp_path / "mixed"))
    assert done.code == 2
    *wrong, count = done.err.splitlines()
    assert all(line.startswith("captionstream: ") for line in (*wrong, count))
    expected = [
        "big.tif cannot be stored: it has 17.0 MB, and a document of MongoDB at most 16",
        "cannot read",
        "no images in",
        "http://[ cannot be fetched",
        "open it with CAPTIONSTREAM_FETCH__ALLOW_HOSTS",
        "s3://bucket/a.png is no http or https URL",
        "notes.txt is no image that can be read: its name ends in .txt",
        "up is a link to a directory",
    ]
    for line, part in zip(wrong, expected, strict=True):
        assert part in line
    assert count.endswith("passed over: 8")
    assert [row["name"] for row in documents.find()] == ["odd\ufffd.png", "good.png"]


def coco(directory, captions, *, missing=()):
    """Write an annotation file and its images; return the arguments of `import-coco`."""
    for image_id in captions.keys() - set(missing):
        (directory / f"{image_id}.png").write_bytes(picture())
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in captions],
        "annotations": [{"image_id": n, "caption": text} for n, text in captions.items()],
    }
    annotations = directory / "captions.json"
    annotations.write_text(json.dumps(content))
    return ("import-coco", "--annotations", str(annotations), "--images", str(directory))


def test_coco_images_that_cannot_be_imported_are_named_and_the_rest_goes_in(
    captionstream, documents, tmp_path
):
    """Fails when a missing file ends the command, and without `check_size`."""
    arguments = coco(
        tmp_path, {1: "a cat", 2: "\ud800", 3: "a dog", 4: "gone", 5: None}, missing=[4]
    )
    (tmp_path / "1.png").write_bytes(bytes(17 * MB))
    done = captionstream(*arguments)
    assert (done.code, done.out) == (2, "3 images, 3 of them new\n")
    expected = [
        "annotation number 2 cannot be used: its caption is no text",
        "annotation number 5 cannot be used: its caption is no text",
        "1.png cannot be stored: it has 17.0 MB",
        "4.png': No such file or directory; check --images",
        "passed over: 4",
    ]
    for line, part in zip(done.err.splitlines(), expected, strict=True):
        assert part in line
    assert {row["_id"]: row["captions"] for row in documents.find()} == {
        2: [],
        3: ["a dog"],
        5: [],
    }
    assert "0 of them new" in captionstream(*arguments).out


def test_import_replaces_nothing_of_a_users_unless_asked(captionstream, documents, tmp_path):
    """Fails with `$set` for documents that are there."""
    documents.insert_many(
        [
            {"_id": 1, "img": b"mine", "captions": ["mine"], "owner": "me"},
            {"_id": 2, "img": picture(), "captions": ["a dog"], "owner": "me"},
        ]
    )
    before = list(documents.find().sort("_id"))
    arguments = coco(tmp_path, {1: "a cat", 2: "a dog", 3: "a cow"})
    done = captionstream(*arguments)
    assert (done.code, done.out) == (2, "2 images, 1 of them new\n")
    named, _ = done.err.splitlines()
    assert "document 1 is there already with another img, captions; --replace" in named
    assert list(documents.find({"_id": {"$lt": 3}}).sort("_id")) == before

    done = captionstream(*arguments, "--replace")
    assert (done.code, done.out, done.err) == (0, "3 images, 0 of them new\n", "")
    replaced = {"_id": 1, "img": picture(), "captions": ["a cat"], "owner": "me"}
    assert documents.find_one({"_id": 1}) == replaced


def test_many_that_are_passed_over_are_counted_and_not_all_named(
    captionstream, documents, tmp_path
):
    (tmp_path / "docs").mkdir()
    for number in range(30):
        (tmp_path / "docs" / f"{number}.txt").write_text("x")
    done = captionstream("insert", str(tmp_path / "docs"))
    lines = done.err.splitlines()
    assert (done.code, len(lines), documents.count_documents({})) == (2, 21, 0)
    assert lines[-1] == "captionstream: passed over: 30, 10 unnamed"


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
