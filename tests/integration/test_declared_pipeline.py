"""The declared pipeline, as a notebook or a producer's program changes it."""

import numpy as np
import pytest
import torch

from streams.capture.copies import CopyRequests
from streams.contract.declaration import Declaration, ModelState
from streams.errors import InvalidPipeline, PointerConflict
from streams.models.kinds.find import load
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations
from streams.mongo.processes import Report, rates_of
from streams.mongo.store import DocumentStore
from streams.operate.pipeline import open_pipeline
from tests.own_module import Scaled

COLOUR = ("colour", "colours:Colour")


@pytest.fixture
def pipeline(settings):
    with open_pipeline(settings) as opened:
        yield opened


def test_models_are_created_listed_and_put_to_rest(pipeline):
    pipeline.create_model(*COLOUR, key="img")
    pipeline.create_model("line", "lines:Line", features={"img": "clip"}, active=False)
    default = ["clip", "clip_projection", "conditional_lm"]
    assert pipeline.list_models() == [*default, "colour", "line"]
    assert pipeline.list_models(active=True) == [*default, "colour"]
    assert pipeline.list_models(active=False) == ["line"]
    pipeline.set_state("line", "active")
    pipeline.set_state("colour", ModelState.INACTIVE)
    assert pipeline.list_models(active=True) == [*default, "line"]
    assert [s.reason for s in pipeline.history()][1:] == [
        "colour created",
        "line created",
        "line made active",
        "colour made inactive",
    ]


def test_documents_are_compared_with_what_a_model_made_before_it_rested(pipeline, settings):
    """Fails without `ask` in `replace`: its versions do not show that a field is another by now.

    The records of that may be gone with the log, and so may the positions of its group.
    """
    with connect(settings.mongo) as client:
        requests = CopyRequests(state_database(client, settings.mongo))
        pipeline.create_model(*COLOUR, key="img")
        pipeline.set_state("colour", "inactive")
        assert not requests.is_open(None)
        pipeline.set_state("colour", "active")
        assert requests.is_open(None)


def test_what_is_declared_twice_changes_nothing(pipeline):
    for _ in range(2):
        declaration = pipeline.create_model(*COLOUR, key="img", options={"bins": 3})
        pipeline.set_state("colour", "active")
    assert pipeline.read().revision == 1
    assert pipeline.read().pipeline.declarations[-1] == declaration


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.create_model("clip", "clip", key="photo"), "'clip' is declared otherwise"),
        (lambda p: p.create_model("a", "b:C", features={"img": "b"}), "a names 'b', which is no"),
        (lambda p: p.create_model("a", "b:C"), "a reads nothing"),
        (lambda p: p.replace([], expected_revision=0, reason="away"), "no model is active"),
        (lambda p: p.set_state("clip", "inactive"), "reads 'clip', which is inactive"),
        (lambda p: p.set_state("colour", "active"), "no model 'colour' is declared"),
    ],
)
def test_what_is_no_pipeline_is_refused_and_nothing_changes(pipeline, change, says):
    with pytest.raises(InvalidPipeline, match=says):
        change(pipeline)
    assert pipeline.read().revision == 0


def test_two_who_change_it_at_once_are_both_heard(pipeline, settings, monkeypatch):
    """Fails without the second attempt of `_change`."""
    read = Declarations.read
    others = iter(["other"])

    def overtaken(declared):
        stored = read(declared)
        if name := next(others, None):
            pipeline.create_model(name, "b:C", key="img")
        return stored

    monkeypatch.setattr(Declarations, "read", overtaken)
    pipeline.create_model(*COLOUR, key="img")
    assert pipeline.list_models()[-2:] == ["other", "colour"]


def test_a_whole_pipeline_replaces_only_the_one_that_was_looked_at(pipeline):
    only = [Declaration(name="clip", kind="clip", key="img")]
    pipeline.create_model(*COLOUR, key="img")
    with pytest.raises(PointerConflict, match="by somebody else"):
        pipeline.replace(only, expected_revision=0, reason="test")
    assert pipeline.replace(only, expected_revision=1, reason="test").revision == 2
    assert pipeline.list_models() == ["clip"]


def test_rates_are_those_of_all_processes_of_a_model():
    reports = [
        Report(stage="a", url="", is_ready=True, rate=rate, models=["a"]) for rate in (1.5, 2.0)
    ]
    assert rates_of([*reports, Report(stage="sink", url="", is_ready=True, rate=9)]) == {"a": 3.5}


def counts(model):
    return model.missing, model.stale, model.reused, model.failed


def test_documents_are_counted_by_what_they_hold(pipeline, settings, database, registry):
    """Whether the state index is there or not; what does not fit into its document counts too."""
    registry.announce("clip", "c1", {})
    declarations = pipeline.read().pipeline.declarations
    with connect(settings.mongo) as client:
        store = DocumentStore(client, settings.mongo, pipeline.read().pipeline)
        outputs = {"img": {"clip": {"version": "c1"}}}
        store.collection.insert_many([{"_id": i, "_outputs": outputs} for i in range(3)])
        store.collection.insert_many([{"_id": i, "img": b"x"} for i in range(3, 8)])
        error = {"img": {"clip": {"version": "c1", "error": {"retryable": False}}}}
        beside = database[f"no_room.{settings.mongo.collection}"]
        beside.insert_one({"_id": 7, "_outputs": error})
        for prepare in (lambda: None, store.prepare):
            prepare()
            clip, projection, _ = pipeline.plan(declarations)[1].models
            assert (counts(clip), clip.has_version) == ((4, 0, 3, 1), True)
            assert (counts(projection), projection.has_version) == ((7, 0, 0, 1), False)


def test_a_module_becomes_a_version_that_serves(pipeline, registry):
    """Its weights are those that the version brings back; the same again is the same version."""
    registry.announce("clip", "c1", {"dimension": 4})
    module = Scaled(dimension=4, factor=2.0)
    with torch.no_grad():
        module.linear.weight.fill_(0.25)
    about = {"features": {"img": "clip"}, "options": {"dimension": 4, "factor": 2.0}}
    for _ in range(2):
        declaration = pipeline.create_model("scaled", module, key="img", **about)
    assert declaration.kind == "tests.own_module:Scaled"
    pointer = registry.pointer("scaled")
    assert (pointer.revision, pipeline.read().revision) == (1, 1)
    bundle = registry.fetch("scaled", pointer.version)
    loaded = load(declaration, bundle)
    vector = np.array([1, 2, 3, 4], dtype=np.float32)
    [made] = loaded.predict([loaded.preprocess(vector)])
    assert made.value.tolist() == [5.0, 5.0]
    with torch.no_grad():
        module.linear.weight.fill_(0.5)
    pipeline.create_model("scaled", module, key="img", **about)
    assert registry.pointer("scaled").previous == pointer.version
    assert pipeline.read().revision == 1


@pytest.mark.parametrize(
    ("features", "options", "says"),
    [
        ({"img": "nothing"}, {"dimension": 4}, "scaled names 'nothing', which is no model"),
        ({"img": "clip"}, {"size": 4}, "options of tests.own_module:Scaled, which takes"),
    ],
)
def test_of_a_module_that_makes_no_pipeline_nothing_is_kept(
    pipeline, registry, features, options, says
):
    """Fails when it is kept before the pipeline is compiled."""
    with pytest.raises(InvalidPipeline, match=says):
        pipeline.create_model("scaled", Scaled(dimension=4), features=features, options=options)
    assert registry.versions() == []
    assert pipeline.read().revision == 0


def test_a_class_that_no_process_can_import_is_refused(pipeline, registry):
    class Local(torch.nn.Linear):
        pass

    with pytest.raises(InvalidPipeline, match="is no kind"):
        pipeline.create_model("local", Local(2, 2), key="img")
    assert registry.versions() == []
