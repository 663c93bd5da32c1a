"""The retraining job on a real MongoDB: when it works, when it stops, and what it leaves behind."""

import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pymongo import MongoClient

from streams.errors import InvalidBundle, LeaseLost, SettingsError, TooLittleData
from streams.mongo.client import state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from tests.fitted import CLIP_VERSION, fitted_bundle, measuring, scene_set
from tests.tiny import DIMENSION
from tests.waiting import DEADLINE_SECONDS, wait_until
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.job.decisions import Decisions
from trainer.job.gate import Gate
from trainer.job.job import Job, Steps, job_lease
from trainer.job.job_metrics import write_job_metrics
from trainer.job.publish import publish
from trainer.job.runs import Outcome, Runs
from trainer.snapshot.files import Snapshot
from trainer.snapshot.manifest import ClusterTime, Counts, FeatureColumn, SnapshotManifest

NAME = "conditional_lm"


def snapshot(content="a", *, train=90, valid=10):
    """Return a snapshot of which the job reads the manifest only."""
    manifest = SnapshotManifest(
        snapshot_id="0" * 16,
        created_at=datetime.now(UTC),
        database="d",
        collection="c",
        cluster_time=ClusterTime(t=1, i=1),
        declarations=[],
        features={"clip": FeatureColumn(version=CLIP_VERSION, dimension=DIMENSION)},
        models={NAME: {"train": train, "valid": valid}},
        counts=Counts(documents=train + valid, included=train + valid),
        folds={"train": train, "valid": valid},
        content_hash=content,
    )
    return Snapshot(Path("absent"), manifest)


@pytest.fixture
def state(mongo_client: MongoClient, mongo_database):
    return state_database(mongo_client, MongoSettings(database=mongo_database.name))


@pytest.fixture
def registry(state):
    return Registry(state)


@pytest.fixture
def job(state, registry):
    """Make a job; its fit takes so many steps."""

    def make(
        taken=None,
        *,
        fit=lambda _: fitted_bundle(10),
        validation_set=lambda _: scene_set(),
        lease_seconds=30.0,
        **options,
    ):
        def send(bundle, frozen):
            return publish(
                bundle,
                frozen,
                evaluate=partial(evaluate_bundle, measuring=measuring(frozen)),
                registry=registry,
                decisions=Decisions(state),
                gate=Gate(metric="bleu4"),
            )

        steps = Steps(
            remove_old=lambda: None,
            take_snapshot=lambda: taken or snapshot(),
            pointer=lambda: registry.pointer(NAME),
            validation_set=validation_set,
            fit=fit,
            publish=send,
        )
        return Job(
            NAME,
            steps,
            lease=job_lease(state, seconds=lease_seconds),
            runs=Runs(state),
            **{"options": {"seed": 0, "rate": 0.001}, "min_documents": 50, **options},
        )

    return make


def never(_):
    pytest.fail("nothing should be fitted")


def test_a_first_job_ends_with_a_version_that_serves(job, registry, state):
    run = job().run()
    assert run.outcome is Outcome.PROMOTED
    assert registry.pointer(NAME).version == run.version
    assert run.documents == 100
    assert Runs(state).last_success(NAME) is not None
    assert Decisions(state).list(NAME)[0].candidate == run.version


def test_the_same_data_and_options_are_nothing_new(job, registry):
    first = job().run()
    again = job(fit=never).run()
    assert again.outcome is Outcome.NOTHING_NEW
    assert first.version in again.reason
    assert job(fit=never).run().outcome is Outcome.NOTHING_NEW
    assert registry.pointer(NAME).revision == 1


def test_the_same_data_are_compared_again_when_something_else_serves(job, registry):
    """Fails without `_still_holds`: what lost against a good version loses against no other."""
    for steps in (5, 30):
        registry.promote(NAME, registry.publish(fitted_bundle(steps)), reason="test")
    assert job().run().outcome is Outcome.KEPT
    assert job(fit=never).run().outcome is Outcome.NOTHING_NEW
    registry.rollback(NAME, reason="test")
    assert job().run().outcome is Outcome.PROMOTED
    # Whoever goes back from that to what it was compared with is not overruled.
    registry.rollback(NAME, reason="test")
    assert job(fit=never).run().outcome is Outcome.NOTHING_NEW


def test_a_promoted_version_that_was_refused_is_tried_again(job, registry):
    """Fails without the look at `refusal`."""
    job().run()
    registry.refuse(registry.pointer(NAME), reason="test", serving=None)
    again = job().run()
    assert again.outcome is Outcome.PROMOTED
    assert registry.pointer(NAME).serving == again.version


@pytest.mark.parametrize(
    ("taken", "options"),
    [
        (snapshot("b"), {}),
        (snapshot(), {"options": {"seed": 1, "rate": 0.001}}),
        (snapshot(), {"is_forced": True}),
    ],
    ids=["data", "options", "force"],
)
def test_other_data_other_options_or_force_are_a_reason_to_fit(job, taken, options):
    job().run()
    run = job(taken, **options).run()
    assert run.outcome is Outcome.KEPT  # the fit gives the same version here
    assert run.reason == "it serves already"


@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        (snapshot(train=40, valid=9), "49 usable documents, at least 50 are needed"),
        (snapshot(valid=0), "no usable document in fold valid"),
    ],
)
def test_too_little_data_ends_the_job_and_is_no_success(job, state, taken, reason):
    run = job(taken, fit=never).run()
    assert (run.outcome, run.reason) == (Outcome.TOO_LITTLE_DATA, reason)
    assert Runs(state).last_success(NAME) is None


def test_a_step_may_find_too_little_too(job, state):
    def fit(_):
        msg = "every caption is empty"
        raise TooLittleData(msg)

    run = job(fit=fit).run()
    assert (run.outcome, run.reason) == (Outcome.TOO_LITTLE_DATA, "every caption is empty")
    assert state["trainer_runs"].find_one()["outcome"] == "too_little_data"


def test_nothing_is_fitted_that_could_not_be_measured(job):
    """Fails without the validation set before the fit: the same fit again, each night."""

    def not_ready(_):
        msg = "1 documents have no vector of the new CLIP version yet"
        raise TooLittleData(msg)

    run = job(fit=never, validation_set=not_ready).run()
    assert run.outcome is Outcome.TOO_LITTLE_DATA


def test_a_second_job_at_the_same_time_ends_with_a_word(job, state):
    inside, leave = threading.Event(), threading.Event()

    def fit(_):
        inside.set()
        assert leave.wait(timeout=DEADLINE_SECONDS)
        return fitted_bundle(10)

    ended = []
    first = threading.Thread(target=lambda: ended.append(job(fit=fit, lease_seconds=8).run()))
    first.start()
    assert inside.wait(timeout=DEADLINE_SECONDS)
    begun = state["trainer_lease"].find_one()["expires_at"]
    wait_until(
        lambda: (state["trainer_lease"].find_one()["expires_at"] - begun).total_seconds() > 0,
        doing="the lease to be renewed",
    )
    second = job(fit=never).run()
    leave.set()
    first.join(timeout=DEADLINE_SECONDS)
    assert second.outcome is Outcome.BUSY
    assert "another job is running" in second.reason
    assert [run.outcome for run in ended] == [Outcome.PROMOTED]
    assert [row["outcome"] for row in state["trainer_runs"].find()] == ["promoted"]
    assert job("").run().outcome is Outcome.NOTHING_NEW  # the lease is free again


def test_the_lease_of_a_killed_job_runs_out(job, state):
    state["trainer_lease"].insert_one({"_id": "job", "format": 1, "owner": "dead:1:x"})

    def end_lease(milliseconds):
        expiry = {"$add": ["$$NOW", milliseconds]}
        state["trainer_lease"].update_one({}, [{"$set": {"expires_at": expiry}}])

    end_lease(3_600_000)
    assert job().run().outcome is Outcome.BUSY
    end_lease(-1)
    assert job().run().outcome is not Outcome.BUSY


def test_a_job_that_lost_its_lease_publishes_nothing(job, state, registry):
    """Fails without `check` in `Job._work`."""

    def fit(_):
        state["trainer_lease"].update_one({}, {"$set": {"owner": "other:1:x"}})
        return fitted_bundle(10)

    with pytest.raises(LeaseLost, match="nothing was published"):
        job(fit=fit, lease_seconds=0.4).run()
    assert registry.pointer(NAME) is None
    assert state["trainer_lease"].find_one()["owner"] == "other:1:x"


def test_a_failure_is_recorded_and_raised(job, state):
    def fit(_):
        msg = "weights hold NaN"
        raise InvalidBundle(msg)

    with pytest.raises(InvalidBundle):
        job(fit=fit).run()
    assert state["trainer_runs"].find_one()["reason"] == "InvalidBundle: weights hold NaN"
    assert Runs(state).last_success(NAME) is None
    assert job().run().outcome is Outcome.PROMOTED  # the lease is free again


def test_metrics_file_tells_the_last_success_of_whichever_job(job, state, tmp_path):
    path = tmp_path / "collector" / "trainer.prom"
    first = job().run()
    poor = job(snapshot(train=1), fit=never).run()
    write_job_metrics(path, poor, last_success=Runs(state).last_success(NAME))
    samples = {
        (sample.name.removeprefix("captionstream_trainer_"), sample.labels.get("result")): sample
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert {sample.labels["model"] for sample in samples.values()} == {NAME}
    values = {key: sample.value for key, sample in samples.items()}
    assert values["last_run_documents", None] == 11
    assert values["last_run_result", "too_little_data"] == 1
    assert sum(value for (name, _), value in values.items() if name == "last_run_result") == 1
    ended = first.started_at.timestamp() + first.seconds
    assert values["last_success_timestamp_seconds", None] == pytest.approx(ended, abs=0.01)
    with pytest.raises(SettingsError, match="--metrics-file"):
        write_job_metrics(path / "below.prom", poor, last_success=None)
