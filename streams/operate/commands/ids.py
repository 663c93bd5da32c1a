"""Document ids on the command line."""

from bson import ObjectId

from streams.contract.ids import DocumentId, document_id_of
from streams.errors import InvalidEvent


def parse_id(text: str) -> DocumentId:
    """Return the `_id` that a user means.

    24 hexadecimal digits are an ObjectId, digits a number, extended JSON what it says, anything
    else a string.
    """
    if ObjectId.is_valid(text):
        return ObjectId(text)
    try:
        return document_id_of(text.encode())
    except InvalidEvent:
        return text
