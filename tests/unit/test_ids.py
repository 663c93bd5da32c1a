"""Ids as a user types them."""

import pytest
from bson import ObjectId

from streams.commands.ids import parse_id


@pytest.mark.parametrize(
    ("text", "document_id"),
    [
        ("65f1c0ffee65f1c0ffee65f1", ObjectId("65f1c0ffee65f1c0ffee65f1")),
        ("42", 42),
        ('{"$numberLong": "42"}', 42),
        ("a name", "a name"),
    ],
)
def test_id_is_what_the_user_means(text, document_id):
    assert parse_id(text) == document_id
