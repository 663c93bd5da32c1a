"""Scans find what `pending_model` finds, on a real MongoDB, and read no more than that."""

import random
from collections import Counter
from itertools import product

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import lookup
from streams.contract.states import Recaption, Serving, pending_model
from streams.mongo.state_index import state_index
from streams.mongo.store import DocumentStore
from streams.reconcile.scans import _state, _unfinished, scan_failures, scan_unfinished
from tests.pipelines import CLIP, CONDITIONAL_LM, MODELS

VERSIONS = {"clip": "c1", "clip_projection": "p1", "conditional_lm": "l1"}
STRANGE = (None, 5, "", True, {"a": 1}, b"x")


@pytest.fixture
def store(client, settings):
    store = DocumentStore(client, settings.mongo, DEFAULT)
    store.prepare()
    return store


def any_output(draw, model):
    """One of ours, most of the time; else what somebody else may have put there."""
    if draw.random() < 0.1:
        return draw.choice(STRANGE)
    versions = (VERSIONS[model.name],) * 4 + ("old", *STRANGE)
    output = {"version": draw.choice(versions)}
    if draw.random() < 0.3:
        error = {"retryable": draw.choice((True, False, True, False, *STRANGE)), "at": 1}
        output["error"] = draw.choice((error, error, error, *STRANGE))
    if draw.random() < 0.9:
        features = {name: draw.choice(("c1", "c1", "c1", "c0", None, 5)) for name in model.reads}
        output["features"] = draw.choice((features, features, features, None, "c1"))
    return {name: value for name, value in output.items() if draw.random() < 0.98}


def any_document(draw, number):
    outputs = {}
    for model in MODELS:
        if draw.random() < 0.9:
            outputs.setdefault(model.key, {})[model.name] = any_output(draw, model)
    return {"_id": number, "img": b"x", "_outputs": outputs if draw.random() < 0.97 else 5}


def any_serving():
    """Every combination of moves, each with everything that may be missing."""
    for recaptions in product(Recaption, repeat=len(MODELS)):
        moves = dict(zip(VERSIONS, recaptions, strict=True))
        yield Serving(pipeline=DEFAULT, versions=VERSIONS, recaption=moves)
    for absent in VERSIONS:
        yield Serving(
            pipeline=DEFAULT, versions={name: v for name, v in VERSIONS.items() if name != absent}
        )
    yield Serving(pipeline=DEFAULT, versions=VERSIONS, requires={"conditional_lm": {"clip": "c9"}})
    yield Serving(pipeline=DEFAULT, versions=VERSIONS, requires={"clip": {"clip": "c9"}})
    yield Serving(pipeline=DEFAULT, versions={})


def test_no_pending_document_is_left_out_and_none_comes_twice(store):
    """Fails when a query of `_unfinished` asks for too much, or two of them match."""
    draw = random.Random(7)  # noqa: S311 - no secret
    documents = [any_document(draw, number) for number in range(700)]
    store.collection.insert_many(documents)
    errors = {
        document["_id"]: [lookup(document, f"{model.path}.error.retryable") for model in MODELS]
        for document in documents
    }

    def is_ours(document_id):
        return all(error in (True, False, None) for error in errors[document_id])

    for serving in any_serving():
        expected = {
            document["_id"]: model
            for document in documents
            if (model := pending_model(document, serving)) is not None
        }
        found = [(row["_id"], model) for row, model in scan_unfinished(store, serving)]
        assert dict(found) == expected, serving
        assert not [i for i, n in Counter(i for i, _ in found).items() if n > 1 and is_ours(i)]


def finished(number, version="l1"):
    feature = {"features": {"clip": "c1"}}
    outputs = {
        "img": {"clip": {"version": "c1"}, "clip_projection": {"version": "p1", **feature}},
        "_base": {"conditional_lm": {"version": version, **feature}},
    }
    return {"_id": number, "img": b"x" * 1000, "_outputs": outputs}


@pytest.mark.parametrize("recaption", Recaption)
def test_what_is_done_is_not_even_looked_at(store, recaption):
    """Fails without `_anything`, or with `None` in a condition: all documents are read then."""
    store.collection.insert_many([finished(number) for number in range(500)])
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(500, 503)])
    serving = Serving(
        pipeline=DEFAULT, versions=VERSIONS, recaption=dict.fromkeys(VERSIONS, recaption)
    )
    for model in MODELS:
        for query in _unfinished(model, serving):
            found = {"find": store.collection.name, "filter": query}
            asked = {**found, "projection": _state(DEFAULT), "hint": state_index(DEFAULT)}
            plan = store.collection.database.command("explain", asked, verbosity="executionStats")
            assert plan["executionStats"]["totalDocsExamined"] == 0
            assert plan["executionStats"]["totalKeysExamined"] < 20


def test_failure_is_found_once_by_its_first_model_and_not_while_it_is_pending(store):
    def failing(number, version, *models, retryable=True):
        document = finished(number)
        for model in models:
            field = document["_outputs"][model.key]
            field[model.name] = {"version": version, "error": {"retryable": retryable}}
        return document

    store.collection.insert_many(
        [
            finished(1),
            failing(2, "c1", CLIP, CONDITIONAL_LM),
            failing(3, "l1", CONDITIONAL_LM),
            failing(4, "c0", CLIP),
            failing(5, "c1", CLIP, retryable=False),
        ]
    )
    serving = Serving(pipeline=DEFAULT, versions=VERSIONS)
    found = [failure.document_id for failure in scan_failures(store.collection, serving)]
    assert sorted(found) == [2, 3]
