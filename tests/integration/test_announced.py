"""A process whose CLIP is not the one that serves moves nothing, makes nothing and says so."""

import time

import numpy as np
import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentDeleted
from streams.errors import Unavailable
from streams.models.clip_golden import encode_golden, golden_difference
from streams.mongo.client import connect, state_database
from streams.registry.versions import Registry
from streams.settings import ClipSettings, ModelSettings, MongoSettings, Settings
from streams.stages import stages_of
from streams.stages.announced import AnnouncedStep
from streams.stages.outcome import Ok, Result
from streams.stages.steps import build_step
from tests.pipelines import CLIP
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

GOLDEN = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


class Step:
    """Has a version; each event is finished."""

    def __init__(self, version):
        self._version = version

    def run(self, events):
        return [Ok(event=None, result=Result.DONE) for _ in events]

    def self_test(self):
        return True

    def versions(self):
        return {CLIP.name: self._version}


class Process:
    """What one process of `clip` has; `ends` counts how often it would have ended itself."""

    def __init__(self, registry, version, golden=GOLDEN):
        self.ends = []
        self.step = AnnouncedStep(
            CLIP.name,
            Step(version),
            registry,
            ModelSettings(poll_interval_seconds=0.05),
            details={"dimension": 4, "golden": encode_golden(golden)},
            compare=lambda first: golden_difference(golden, first["golden"]),
            remedy="correct CAPTIONSTREAM_CLIP__MODEL",
            leave=lambda: self.ends.append(time.monotonic()),
        )

    def works(self):
        try:
            return len(self.step.run([DocumentDeleted(document_id=1, source=None)])) == 1
        except Unavailable:
            return False


@pytest.fixture
def start(registry):
    made = []

    def start_one(version, **options):
        process = Process(options.pop("registry", registry), version, **options)
        made.append(process)
        process.step.start()
        return process

    yield start_one
    for process in made:
        process.step.stop()


def test_second_version_waits_for_a_promotion_and_names_the_remedy(registry, start):
    """Fails when announcing is promoting: one wrong setting would embed everything again."""
    first, other = start("c1"), start("c2")
    assert first.works()
    assert not other.works()
    assert other.step.waits_for() == (
        "this process has clip c2, but c1 serves: promote it with `captionstream models promote"
        " clip c2`, or correct CAPTIONSTREAM_CLIP__MODEL"
    )
    assert [move.version for move in registry.history(CLIP.name)] == ["c1"]
    assert [info.version for info in registry.versions(CLIP.name)] == ["c1", "c2"]


def test_promotion_ends_the_process_of_the_old_version_and_begins_the_new(registry, start):
    """Fails without `leave`: the old process would keep its partitions for ever."""
    first, other = start("c1"), start("c2")
    registry.promote(CLIP.name, "c2", reason="test")
    wait_until(other.works, doing="the new version to serve")
    wait_until(lambda: first.ends, doing="the end of the old one")
    assert not first.works()
    assert "this process has clip c1, but c2 serves" in first.step.waits_for()
    again = start("c1")
    registry.rollback(CLIP.name, reason="test")
    wait_until(again.works, doing="the old version to serve again")
    wait_until(lambda: other.ends, doing="the end of the new one")
    assert (len(first.ends), len(other.ends), again.ends) == (1, 1, [])


def test_batch_that_began_before_the_pointer_moved_is_finished(registry, start):
    """With its own version on it, which the reconciler then finds stale."""
    process = start("c1")
    inner = process.step._step

    def run(events):
        registry.promote(CLIP.name, "c2", reason="test")
        wait_until(lambda: process.ends, doing="the process to see it")
        return Step.run(inner, events)

    registry.announce(CLIP.name, "c2", {"dimension": 4, "golden": encode_golden(GOLDEN)})
    inner.run = run
    assert process.works()
    assert not process.works()


def test_process_that_computes_something_else_under_the_same_id_does_not_serve(start):
    """Fails when ids alone are compared: neither device nor runtime is in them any more."""
    close = GOLDEN + 1e-3
    start("c1")
    assert start("c1", golden=close).works()
    broken = start("c1", golden=GOLDEN[::-1])
    assert not broken.works()
    assert "computes other embeddings" in broken.step.waits_for()
    assert "CAPTIONSTREAM_CLIP__DEVICE" in broken.step.waits_for()
    assert not start("c1", golden=GOLDEN[:, :3]).works()


def test_registry_that_was_emptied_gets_the_version_again(database, start):
    process = start("c1")
    for name in ("model_versions", "model_pointers"):
        database[name].delete_many({})
    wait_until(lambda: Registry(database).pointer(CLIP.name), doing="the announcement")
    assert process.works()


def test_clip_is_loaded_once_although_mongodb_is_away(tmp_path, mongo_uri, mongo_database):
    """Fails when `build_step` raises for that: every try of it loads the weights again."""
    settings = Settings(
        mongo=MongoSettings(uri="mongodb://127.0.0.1:1/", timeout_seconds=0.1),
        clip=ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random"),
        models=ModelSettings(poll_interval_seconds=0.05),
    )
    with connect(settings.mongo) as client:
        built = build_step(stages_of(DEFAULT)[CLIP.name], client, settings)
        assert "MongoDB" in built.waits_for()
        there = MongoSettings(uri=mongo_uri, database=mongo_database.name)
        with connect(there) as other:
            registry = Registry(state_database(other, there))
            built.step._registry = registry
            wait_until(lambda: not built.waits_for(), doing="MongoDB to be back")
            [info] = registry.versions(CLIP.name)
            assert built.step.versions() == {CLIP.name: info.version}
            assert "golden" not in info.as_json()
            built.step.stop()
            built.step._step._decoders.close()
