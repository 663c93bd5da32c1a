"""What was planned is what happens: by the reconciler's rules, in a real database."""

from collections import Counter

import pytest
from bson.timestamp import Timestamp

from streams.contract.declaration import ModelState, parse_declarations
from streams.contract.documents import Output, OutputError
from streams.contract.writes import OutputWrite
from streams.mongo.client import connect
from streams.mongo.store import DocumentStore
from streams.operate.pipeline import open_pipeline
from streams.reconcile.scans import scan_unfinished

CLIP = {"name": "clip", "kind": "clip", "key": "img"}
COLOUR = {"name": "colour", "kind": "colours:Colour", "key": "img"}
LINE = {
    "name": "line",
    "kind": "lines:Line",
    "features": {"img": "clip", "colour": "colour"},
    "fields": ["title"],
}
CHAIN = {"name": "words", "kind": "words:Words", "features": {"line": "line"}}
BEFORE = [CLIP, COLOUR, LINE, CHAIN]
#: Documents by how far they have come: number of models that have an output, or an error.
DONE = {(4, False): 5, (2, False): 3, (0, False): 2, (1, True): 4}
SOURCE = Timestamp(1_800_000_000, 1)


def changed(row, **fields):
    return row | fields


@pytest.fixture
def pipeline(settings, registry):
    """Every model has a version."""
    for row in (*BEFORE, {"name": "extra"}):
        registry.announce(row["name"], f"{row['name']}-1", {})
    with open_pipeline(settings) as opened:
        opened.replace(parse_declarations(BEFORE), expected_revision=0, reason="test")
        yield opened


def made(document_id, model, versions, *, fails=False):
    version = versions[model.name]
    result = (
        OutputError(type="E", message="m", attempts=1, is_retryable=False, version=version)
        if fails
        else Output(
            value="v",
            version=version,
            features={name: versions[name] for name in model.reads},
            inputs=dict.fromkeys(model.inputs, "0"),
        )
    )
    return OutputWrite(document_id=document_id, source=SOURCE, model=model, result=result)


@pytest.fixture
def store(settings, pipeline, registry):
    declared = pipeline.read().pipeline
    versions = registry.serving(declared).versions
    with connect(settings.mongo) as client:
        store = DocumentStore(client, settings.mongo, declared)
        for (steps, fails), count in DONE.items():
            for number in range(count):
                document_id = f"{steps}-{number}"
                store.collection.insert_one({"_id": document_id, "img": b"x", "title": "t"})
                models = list(declared.models.values())[:steps]
                writes = [made(document_id, m, versions, fails=fails) for m in models]
                assert len(store.write_outputs(writes).done) == steps
        yield store


def run_all(store, serving):
    """Make all that the reconciler would have made, and count it by model."""
    counts = Counter()
    while found := list(scan_unfinished(store, serving)):
        for row, model in found:
            write = made(row["_id"], model, serving.versions)
            assert store.write_outputs([write]).done
            counts[model.name] += 1
    return counts


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        [*BEFORE, {"name": "extra", "kind": "e:E", "features": {"img": "clip"}}],
        [changed(CLIP, options={"size": 1}), COLOUR, LINE, CHAIN],
        [CLIP, changed(COLOUR, options={"bins": 2}), LINE, CHAIN],
        [CLIP, COLOUR, changed(LINE, fields=["title", "shop"]), CHAIN],
        [CLIP, COLOUR, changed(LINE, features={"img": "clip"}), CHAIN],
        [CLIP, COLOUR, changed(LINE, key="title", fields=[]), CHAIN],
        [CLIP, COLOUR, LINE, changed(CHAIN, state=ModelState.INACTIVE.value)],
        [CLIP, changed(COLOUR, after=["clip"]), LINE, CHAIN],
    ],
)
def test_documents_that_were_planned_are_made(pipeline, store, settings, registry, after):
    declarations = parse_declarations(after)
    before, plan = pipeline.plan(declarations)
    pipeline.replace(declarations, expected_revision=before.revision, reason="test")
    declared = pipeline.read().pipeline
    new = DocumentStore(store.collection.database.client, settings.mongo, declared)
    new.prepare()
    done = run_all(new, registry.serving(declared))
    assert {model.name: model.made for model in plan.models if model.made} == done
    total = sum(DONE.values())
    for model in plan.models:
        if model.name in declared.models:
            assert model.made + model.reused + model.failed == total
