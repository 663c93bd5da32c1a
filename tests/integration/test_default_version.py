"""The projection follows CLIP: what serves always fits the version that is announced."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output
from streams.contract.events import ModelApplied, Origin
from streams.contract.manifest import Feature
from streams.contract.pipeline import compile_pipeline
from streams.models.kinds.find import kind_of
from streams.models.kinds.linear import Linear
from streams.models.projection import orthogonal_projection
from streams.stages.built_model import hot_model, ready_of
from streams.stages.model_step import ModelStep
from streams.stages.outcome import Result
from tests.bundles import projection_bundle
from tests.captioner import serve_clip
from tests.pipelines import CLIP_PROJECTION, with_options
from tests.waiting import wait_until

NAME = "clip_projection"
SIZE = 3


@pytest.fixture
def hot(registry, settings):
    pipeline = with_options(NAME, dimension=SIZE)
    model = hot_model(pipeline.models[NAME], pipeline, Linear(), registry, settings)
    yield model
    model.stop()


def trained(dimension, clip_version, seed=7):
    model = orthogonal_projection(dimension, SIZE, seed=seed)
    return projection_bundle(model, clip_version=clip_version)


def promote(registry, bundle):
    return registry.promote(NAME, registry.publish(bundle), reason="test").version


def clip_event(version, dimension):
    vector = np.ones(dimension, np.float32)
    return ModelApplied(
        document_id=1,
        source=Timestamp(1, 1),
        origin=Origin.LIVE,
        model="clip",
        outputs={"clip": Output(value=vector, version=version, inputs={"img": "ab"})},
    )


def results(hot, *events):
    step = ModelStep(
        CLIP_PROJECTION, DEFAULT, lambda: ready_of(CLIP_PROJECTION, hot), hot.self_test
    )
    return [outcome.result for outcome in step.run(list(events))]


def test_clip_of_another_dimension_gets_its_projection_while_its_process_runs(registry, hot):
    """Fails without `prepare` in `refresh`, and when another length is a final failure."""
    serve_clip(registry, "c1", 4)
    hot.start()
    assert results(hot, clip_event("c1", 4), clip_event("c2", 8)) == [
        Result.DONE,
        Result.AWAITING_MODEL,
    ]
    serve_clip(registry, "c2", 8)
    wait_until(
        lambda: hot.current().manifest.features["clip"].dimension == 8, doing="the projection of c2"
    )
    assert results(hot, clip_event("c2", 8), clip_event("c1", 4)) == [
        Result.DONE,
        Result.AWAITING_MODEL,
    ]
    assert [move.revision for move in registry.history(NAME)] == [1, 2]


def test_projection_of_another_clip_of_the_same_dimension_is_replaced(registry, hot):
    """Fails when `_fits` compares dimensions only."""
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, "c1"))
    hot.refresh()
    assert hot.current().version == own
    serve_clip(registry, "c2", 4)
    hot.refresh()
    assert results(hot, clip_event("c2", 4)) == [Result.DONE]


@pytest.mark.parametrize("clip_version", ["c1", None])
def test_projection_that_fits_stays(registry, hot, clip_version):
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, clip_version))
    hot.refresh()
    hot.refresh()
    assert hot.current().version == own
    assert len(registry.history(NAME)) == 1


@pytest.mark.parametrize("dimension", [4, 8])
def test_trained_projection_comes_back_with_its_clip(registry, hot, dimension):
    """Fails when the seeded one stays, which fits every CLIP of its length."""
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, "c1"))
    hot.refresh()
    serve_clip(registry, "c2", dimension)
    hot.refresh()
    seeded = hot.current().version
    assert results(hot, clip_event("c2", dimension)) == [Result.DONE]
    other = promote(registry, trained(dimension, "c2", seed=8))
    hot.refresh()
    assert hot.current().version == other
    for clip, length, wanted in (("c1", 4, own), ("c2", dimension, other)):
        serve_clip(registry, clip, length)
        hot.refresh()
        assert hot.current().version == wanted
    promote_again(registry, seeded)
    hot.refresh()
    hot.refresh()
    assert hot.current().version == seeded, "what an operator promotes stays, if it fits"


def test_projection_that_served_and_was_refused_later_does_not_come_back(registry, hot):
    """Fails without `refused` in `_last_that_fits`: it would be promoted for ever."""
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, "c1"))
    promote_again(registry, own)
    registry.refuse(registry.pointer(NAME), reason="its weights are damaged by now", serving=None)
    hot.refresh()
    hot.refresh()
    assert hot.current().version != own
    assert len(registry.history(NAME)) == 3
    assert results(hot, clip_event("c1", 4)) == [Result.DONE]


def test_refused_projection_does_not_come_back_with_its_clip(registry, hot):
    """Fails when a move that was refused counts as one that served."""
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, "c1"))
    hot.refresh()
    bad = promote(registry, damaged("c1"))
    hot.refresh()
    assert registry.pointer(NAME).version == bad
    for clip in ("c2", "c1"):
        serve_clip(registry, clip, 4)
        hot.refresh()
    assert hot.current().version == own
    assert [move.version for move in registry.history(NAME)].count(bad) == 1


def promote_again(registry, version):
    registry.promote(NAME, version, reason="test")


def without_feature():
    good = trained(4, None)
    manifest = good.manifest.model_copy(update={"features": {"depth": Feature(dimension=4)}})
    return replace(good, manifest=manifest)


def damaged(clip_version=None):
    good = trained(4, clip_version)
    golden = good.manifest.golden.model_copy(update={"vectors": [[0.0] * SIZE] * 2})
    return replace(good, manifest=good.manifest.model_copy(update={"golden": golden}))


@pytest.mark.parametrize("bundle", [without_feature, damaged])
def test_pointer_at_a_version_that_cannot_serve_ends_at_the_seeded_one(registry, hot, bundle):
    """Nothing good served before. Fails when a refused version counts as one that serves."""
    serve_clip(registry, "c1", 4)
    promote(registry, bundle())
    hot.refresh()
    hot.refresh()
    assert results(hot, clip_event("c1", 4)) == [Result.DONE]
    assert registry.serving(DEFAULT).problems == {}


def test_refused_version_leaves_the_one_that_serves_in_its_place(registry, hot):
    """Fails when `_fits` looks at the version that the pointer names."""
    serve_clip(registry, "c1", 4)
    own = promote(registry, trained(4, "c1"))
    hot.refresh()
    bad = promote(registry, damaged())
    hot.refresh()
    hot.refresh()
    assert hot.current().version == own
    assert registry.pointer(NAME).version == bad
    serve_clip(registry, "c2", 4)
    hot.refresh()
    assert results(hot, clip_event("c2", 4)) == [Result.DONE]


def test_manifest_that_cannot_be_read_is_refused_and_then_replaced(registry, hot, database):
    """Fails when `ensure` lets InvalidBundle out: its process would not start."""
    serve_clip(registry, "c1", 4)
    version = promote(registry, trained(4, None))
    database["model_versions"].update_one({"version": version}, {"$set": {"manifest": "{}"}})
    hot.refresh()
    assert registry.history(NAME)[-1].refusal is not None
    hot.refresh()
    assert results(hot, clip_event("c1", 4)) == [Result.DONE]


def test_seeded_projection_that_is_refused_is_not_promoted_for_ever(registry, hot):
    serve_clip(registry, "c1", 4)
    hot.refresh()
    registry.refuse(registry.pointer(NAME), reason="another machine's golden", serving=None)
    hot.refresh()
    hot.refresh()
    assert len(registry.history(NAME)) == 1


def test_version_of_another_length_than_clip_makes_cannot_run(registry):
    """Its documents await a model. Fails without `misfits`: they were pending for ever."""
    serve_clip(registry, "c1", 4)
    promote(registry, trained(4, None))
    assert registry.serving(DEFAULT).misfits == frozenset()
    serve_clip(registry, "c2", 8)
    assert registry.serving(DEFAULT).misfits == {NAME}


OWN = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="own", kind="rolled_models:Own", key="img", features={"img": "clip"}),
    ]
)
SOURCE = "class Own:\n    def forward(self, vectors):\n        return vectors * {}\n"


@pytest.fixture
def release(tmp_path, monkeypatch, registry, settings):
    """Make the process of a release of a user's class; each has the class that it began with."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = []

    def start(factor, pipeline=OWN):
        (tmp_path / "rolled_models.py").write_text(SOURCE.format(factor))
        sys.modules.pop("rolled_models", None)
        kind = kind_of("rolled_models:Own")
        [model] = [m for m in pipeline.models.values() if m.declaration.kind == kind.name]
        made.append(hot_model(model, pipeline, kind, registry, settings))
        return made[-1]

    yield start
    sys.modules.pop("rolled_models", None)
    for hot in made:
        hot.stop()


def versions_of(registry, name="own"):
    return [move.version for move in registry.history(name)]


def test_users_class_serves_with_its_first_weights(registry, release):
    serve_clip(registry, "c1", 4)
    hot = release(1)
    hot.refresh()
    hot.refresh()
    assert versions_of(registry) == [hot.current().version]
    manifest = hot.current().manifest
    assert (manifest.is_initial, manifest.dimension) == (True, 4)


def test_nothing_serves_before_something_upstream_does(registry, release):
    """Fails when `ensure` raises for that: its process would hold up those behind it."""
    hot = release(1)
    hot.refresh()
    assert (hot.current(), hot.waits_for()) == (None, "")
    serve_clip(registry, "c1", 4)
    hot.refresh()
    assert hot.current() is not None


def test_releases_of_a_class_do_not_take_the_pointer_from_each_other(registry, release):
    """Fails without `was_here`: for as long as both run, all would be made again and again."""
    serve_clip(registry, "c1", 4)
    before = release(1)
    before.refresh()
    after = release(2)
    for _ in range(3):
        after.refresh()
        before.refresh()
    assert versions_of(registry) == [before.current().version, after.current().version]
    assert "another file of rolled_models:Own" in before.waits_for()
    assert after.waits_for() == ""

    # Back again is an operator's word.
    registry.promote("own", before.current().version, reason="test")
    before.refresh()
    after.refresh()
    assert before.waits_for() == ""
    assert "another file" in after.waits_for()
    assert registry.pointer("own").refusal is None, "it is the process that is wrong"


def test_what_was_given_is_not_replaced_by_first_weights(registry, release):
    """Fails without `is_initial`: a new file of the class would throw away what was learned."""
    serve_clip(registry, "c1", 4)
    before = release(1)
    declaration = OWN.models["own"].declaration
    given = kind_of(declaration.kind).to_bundle(declaration, object(), {"clip": Feature()})
    version = registry.publish(given)
    registry.promote("own", version, reason="test")
    before.refresh()
    after = release(2)
    after.refresh()
    assert versions_of(registry) == [version]
    assert before.current().version == version
    assert "another file" in after.waits_for()


def test_version_of_another_kind_is_replaced(registry, release, hot):
    """The name was declared anew. Fails without `kind` in `_fits`."""
    serve_clip(registry, "c1", 4)
    hot.refresh()
    renamed = compile_pipeline(
        [
            OWN.models["clip"].declaration,
            OWN.models["own"].declaration.model_copy(update={"name": NAME}),
        ]
    )
    other = release(1, renamed)
    other.refresh()
    assert other.current().manifest.kind == "rolled_models:Own"
