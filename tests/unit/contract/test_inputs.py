"""Outputs of several fields, and what the fields of a document are now."""

import pytest
from bson import ObjectId

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
    current_inputs,
    field_fingerprint,
    fingerprint,
    stored_output,
)
from streams.contract.pipeline import compile_pipeline
from tests.unit.contract.test_documents import T1, document_of

PIPELINE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="text", kind="gru", features={"img": "clip"}, fields=("title", "a note")),
    ]
)
TEXT = PIPELINE.models["text"]
MADE_OF = {"a note": "n1", "img": "i1", "title": "t1"}


@pytest.mark.parametrize(
    ("inputs", "is_reused"),
    [
        (MADE_OF, True),
        ({}, True),
        ({"img": "i1"}, True),
        ({"title": "t1", "a note": "n1"}, True),
        ({**MADE_OF, "other": "o1"}, True),
        ({**MADE_OF, "title": "t2"}, False),
        ({**MADE_OF, "a note": "n2"}, False),
        ({"img": "i2"}, False),
        ({"a note": ""}, False),
    ],
    ids=repr,
)
def test_output_of_several_fields_is_reused_if_each_that_is_named_is_the_same(inputs, is_reused):
    """Fails when only the image is compared."""
    output = Output(value="x", version="v1", features={"clip": "c1"}, inputs=MADE_OF)
    found = stored_output(document_of(output, TEXT), TEXT, inputs)
    assert found == (output if is_reused else None)


@pytest.mark.parametrize(
    "made_of",
    [{}, {"img": "i1"}, {**MADE_OF, "other": "o1"}, {**MADE_OF, "title": 5}, "i1", None, ["img"]],
    ids=repr,
)
def test_output_of_other_fields_than_its_model_reads_is_not_reused(made_of):
    """Fails without the look at the names: the declaration read another field before."""
    stored = {"input": made_of, "version": "v", "value": "x"}
    assert stored_output({"_outputs": {"_base": {"text": stored}}}, TEXT, {}) is None


def embedding(url, made_of="i9", **more):
    fields = {"format": 1, "value": "x", "version": "c1", "input": {"img": made_of}}
    return {"_outputs": {"img": {"clip": {**fields, "url": url, **more}}}}


NONE = field_fingerprint(None)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"img": b"x"}, fingerprint(b"x")),
        ({"img": {"url": "data:,x"}}, fingerprint(b"x")),
        (
            {"img": {"url": "data:;base64,eA=="}, **embedding("data:;base64,eA==")},
            fingerprint(b"x"),
        ),
        ({"img": {"url": "http://u"}, **embedding("http://u")}, "i9"),
        ({"img": {"url": "http://u"}, **embedding("http://other")}, ""),
        ({"img": {"url": "http://u"}, **embedding(None)}, ""),
        ({"img": {"url": "http://u"}, **embedding("http://u", error={})}, ""),
        ({"img": {"url": "http://u"}}, ""),
        ({"img": "no image"}, ""),
        ({"img": None}, ""),
        ({}, ""),
    ],
    ids=repr,
)
def test_image_of_now_is_that_of_the_document_or_the_one_that_was_fetched_for_its_url(
    document, expected
):
    """Fails when a URL of before counts as that of now, or when no image is one."""
    found = current_inputs(document, PIPELINE)
    assert found == {"a note": NONE, "img": expected, "title": NONE}


def test_inputs_of_now_are_those_of_every_watched_field_and_of_no_other():
    document = {"img": b"x", "title": "a cat", "a note": [1, None], "other": "x"}
    assert current_inputs(document, PIPELINE) == {
        "a note": field_fingerprint([1, None]),
        "img": fingerprint(b"x"),
        "title": field_fingerprint("a cat"),
    }
    assert current_inputs(document, DEFAULT) == {"img": fingerprint(b"x")}


def test_other_contents_of_a_field_have_other_fingerprints():
    """Fails when types are lost: 1, true and "1" are not the same."""
    some = [None, 1, 1.0, True, "1", "", [], [1], {}, {"a": 1}, ObjectId(b"0" * 12), b"1", T1]
    assert len({field_fingerprint(value) for value in some}) == len(some)


def test_order_of_names_in_a_field_is_no_change():
    """Fails without `sort_keys`."""
    assert field_fingerprint({"a": 1, "b": 2}) == field_fingerprint({"b": 2, "a": 1})
