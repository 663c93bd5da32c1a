"""Which filter a resume token belongs to. What a filter does is shown on a server."""

import pytest

from streams.capture.change_stream import build_filter, filter_hash


def test_hash_of_equal_filters_is_equal():
    assert filter_hash(build_filter("a", ["img"])) == filter_hash(build_filter("a", ("img",)))


@pytest.mark.parametrize(("collection", "watched"), [("b", ["img"]), ("a", ["img", "title"])])
def test_hash_tells_filters_apart(collection, watched):
    other = filter_hash(build_filter(collection, watched))
    assert filter_hash(build_filter("a", ["img"])) != other
