"""Which changes matter."""

import pytest

from streams.capture.change_stream import build_filter, filter_hash, touches_image


@pytest.mark.parametrize(
    ("operation", "paths", "expected"),
    [
        ("insert", None, True),
        ("replace", None, True),
        ("delete", None, True),
        ("update", ["img"], True),
        ("update", ["title", "img.url"], True),
        ("update", ["title"], False),
        ("update", ["captions.3"], False),
        ("update", ["image", "img_url", "my.img"], False),
        ("update", ["_outputs.img.clip"], False),
        ("update", [], True),
    ],
)
def test_an_update_counts_only_if_it_touches_the_image(operation, paths, expected):
    assert touches_image({"operationType": operation, "paths": paths}) is expected


def test_hash_tells_pipelines_apart():
    assert filter_hash(build_filter("a")) == filter_hash(build_filter("a"))
    assert filter_hash(build_filter("a")) != filter_hash(build_filter("b"))
