"""`captionstream-trainer evaluate`, `publish` and `decisions` as they are typed, and retraining."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
from bson.timestamp import Timestamp
from typer.testing import CliRunner

from streams.contract.default_pipeline import DEFAULT
from streams.errors import (
    InvalidBundle,
    InvalidValidationSet,
    ModelNotFound,
    SettingsError,
    StoreUnavailable,
)
from streams.models.bundle import to_directory
from streams.mongo.client import connect, state_database
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from streams.settings import MongoSettings, Settings
from tests.fitted import CLIP_VERSION, SCENES, fitted_bundle, vector_of
from tests.integration.trainer_data import READS, announce_clip, clip_write
from trainer.cli import app
from trainer.evaluate.validation_sample import create_validation_set
from trainer.fit.kinds import plugs_of
from trainer.job.gate import Gate
from trainer.job.job import Job
from trainer.job.retrain import Plan, retrain
from trainer.job.runs import Outcome
from trainer.snapshot.validation_set import ValidationSets

NAME = "conditional_lm"
TRAIN = 6  # documents of the train fold
POOR, FAIR, GOOD = 5, 10, 30  # steps


@pytest.fixture
def settings(mongo_uri, mongo_database, monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__URI", mongo_uri)
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__DATABASE", mongo_database.name)
    return Settings(mongo=MongoSettings(uri=mongo_uri, database=mongo_database.name))


@pytest.fixture(autouse=True)
def trainer_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_TRAINER__DIRECTORY", str(tmp_path / "trainer"))


@pytest.fixture
def client(settings):
    with connect(settings.mongo) as connected:
        yield connected


@pytest.fixture
def scenes(client, settings):
    """Documents of scenes with pictures and vectors, and the validation set of all of them.

    And twelve more of the same, to learn from.
    """
    announce_clip(client, settings, CLIP_VERSION)
    store = DocumentStore(client, settings.mongo, DEFAULT)
    ids = [f"scene-{number}" for number in range(len(SCENES))]
    store.collection.insert_many(
        {
            "_id": key,
            "img": scene.png(),
            "captions": scene.captions(),
            "scene": scene.as_document(),
            "_fold": "test",
        }
        for key, scene in zip(ids, SCENES, strict=True)
    )
    store.collection.insert_many(
        {"_id": n, "captions": scene.captions(), "_fold": "train" if n < TRAIN else "valid"}
        for n, scene in enumerate(SCENES)
    )
    store.write_outputs(
        [
            clip_write(key, vector_of(n), version=CLIP_VERSION)
            for number, name in enumerate(ids)
            for key, n in ((name, number), (number, number))
        ]
    )
    return create_validation_set(client, settings.mongo, READS)


@pytest.fixture
def run_directory(tmp_path):
    """Make the directory of a run, as a fit leaves it."""

    def make(steps):
        directory = tmp_path / f"run-{steps}"
        if directory.exists():
            return directory
        to_directory(fitted_bundle(steps), directory / "bundle")
        history = {"epoch": 1, "train_loss": 2.0, "valid_loss": 2.5}
        (directory / "history.jsonl").write_text(json.dumps(history) + "\n")
        return directory

    return make


def plan_of(metric, **options):
    model = DEFAULT.models[NAME]
    gate = Gate(metric=metric)
    return Plan(model=model, reads=READS, plugs=plugs_of(model), gate=gate, **options)


def trainer(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_evaluate_measures_a_run_and_writes_a_page(scenes, run_directory, tmp_path):
    page = tmp_path / "out" / "report.html"
    directory = run_directory(GOOD)
    told = trainer("evaluate", NAME, "--bundle", directory, "--html", page)
    assert re.search(r"Exact match +1.0000 +12\n", told)
    for metric in ("Unknown words", "Empty captions"):
        assert re.search(rf"{metric} +0\.\d{{4}} +12\n", told)
    html = page.read_text()
    assert "Unknown words" in html
    assert html.count('<img src="data:image/png') == len(SCENES)
    assert "How the training went" in html
    row = json.loads(trainer("evaluate", NAME, "--bundle", directory / "bundle", "--json"))
    assert row["metrics"]["exact_match"] == 1
    assert row["digest"] == scenes.digest
    assert row["version"] == fitted_bundle(GOOD).version


def test_publish_then_evaluate_what_serves(scenes, run_directory, client, settings):
    first = json.loads(trainer("publish", NAME, "--bundle", run_directory(FAIR), "--json"))
    assert (first["outcome"], first["metric"], first["serving"]) == ("promoted", "cider", None)
    worse = trainer("publish", NAME, "--bundle", run_directory(POOR))
    assert f"keeps {first['candidate']}" in worse
    forced = ("--force", "--recaption", "none", "--metric", "bleu4")
    told = trainer("publish", NAME, "--bundle", run_directory(POOR), *forced)
    assert f"(before: {first['candidate']}): forced, though bleu4" in told
    pointer = Registry(state_database(client, settings.mongo)).pointer(NAME)
    assert pointer.recaption == "none"
    serving = json.loads(trainer("evaluate", NAME, "--ask", "beam_width=2", "--json"))
    assert serving["version"] == pointer.version
    assert serving["options"] == {"beam_width": 2}
    named = trainer("evaluate", NAME, "--version", first["candidate"][:6], "--json")
    assert json.loads(named)["metrics"]["cider"] == first["candidate_value"]
    rows = [json.loads(line) for line in trainer("decisions", NAME, "--json").splitlines()]
    assert [row["outcome"] for row in rows] == ["promoted", "kept", "promoted"]
    assert len(trainer("decisions", "--limit", "2").splitlines()) == 2
    assert trainer("decisions", "clip_projection") == ""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("evaluate", NAME), ModelNotFound, "no version of conditional_lm serves"),
        (
            ("evaluate", NAME, "--validation-set", "x"),
            InvalidValidationSet,
            "validation-set create",
        ),
        (("evaluate", NAME, "--bundle", "absent"), InvalidBundle, "cannot read"),
        (("evaluate", NAME, "--bundle", "a", "--version", "b"), SettingsError, "not both"),
        (("publish", NAME, "--bundle", "absent"), InvalidBundle, "cannot read"),
    ],
)
def test_what_is_missing_is_said_in_one_line(scenes, arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        trainer(*arguments)
    assert "\n" not in str(raised.value)


def test_a_bundle_of_another_model_is_refused(scenes, run_directory):
    with pytest.raises(SettingsError, match="is one of conditional_lm, not of clip_projection"):
        trainer("publish", "clip_projection", "--bundle", run_directory(POOR))


def test_retraining_goes_from_documents_to_a_version_that_serves(
    scenes, client, settings, tmp_path
):
    metrics = tmp_path / "trainer.prom"
    plan = plan_of("exact_match", min_documents=5, lease_seconds=30)
    seen = []

    def fit(snapshot):
        seen.append(snapshot.manifest)
        return fitted_bundle(GOOD)

    def once(fitting=fit, connected=client, **changes):
        return retrain(
            replace(plan, **changes),
            fitting,
            client=connected,
            settings=settings,
            directory=tmp_path,
            metrics_file=metrics,
        )

    first = once()
    assert (first.outcome, first.documents) == (Outcome.PROMOTED, len(SCENES))
    assert seen[0].folds == {"train": TRAIN, "valid": len(SCENES) - TRAIN}
    assert seen[0].counts.held_out == len(SCENES)
    assert Registry(state_database(client, settings.mongo)).pointer(NAME).version == first.version
    assert once().outcome is Outcome.NOTHING_NEW
    assert once(min_documents=13).outcome is Outcome.TOO_LITTLE_DATA
    assert once(fit_options={"seed": 1}, validation_set="other").outcome is Outcome.KEPT
    assert len(seen) == 2
    assert 'last_run_result{model="conditional_lm",result="kept"} 1.0' in metrics.read_text()

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        once(fail, fit_options={"seed": 2})
    assert 'result="failed"} 1.0' in metrics.read_text()

    # MongoDB goes away. Fails if the last success is read only at the end.
    def success():
        return [line for line in metrics.read_text().splitlines() if "last_success" in line]

    before, other = success(), connect(settings.mongo)

    def lose(_):
        other.close()
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        once(lose, other, fit_options={"seed": 3})
    assert success() == before != []


def test_failure_of_a_job_is_seen_though_its_metrics_cannot_be_written(
    client, settings, tmp_path, monkeypatch
):
    """As on a full disk. Fails without `except SettingsError` in `retrain`."""

    def fail(_):
        raise ZeroDivisionError

    log = Mock()
    monkeypatch.setattr(Job, "_work", fail)
    monkeypatch.setattr("trainer.job.retrain.log", log)
    (tmp_path / "file").touch()
    with pytest.raises(ZeroDivisionError):
        retrain(
            plan_of("bleu4"),
            fitted_bundle,
            client=client,
            settings=settings,
            directory=tmp_path,
            metrics_file=tmp_path / "file" / "trainer.prom",
        )
    assert "--metrics-file" in log.warning.call_args.kwargs["reason"]


def test_retraining_after_a_change_of_clip_refreshes_the_validation_set(
    scenes, client, settings, tmp_path
):
    store = DocumentStore(client, settings.mongo, DEFAULT)
    announce_clip(client, settings, "tiny-2")
    source = Timestamp(200, 1)
    store.write_outputs(
        [
            clip_write(key, vector_of(n), version="tiny-2", source=source)
            for n in range(len(SCENES))
            for key in (f"scene-{n}", n)
        ]
    )
    run = retrain(
        plan_of("bleu4", min_documents=5),
        lambda _: fitted_bundle(FAIR, clip_version="tiny-2"),
        client=client,
        settings=settings,
        directory=tmp_path,
    )
    assert run.outcome is Outcome.PROMOTED
    refreshed = ValidationSets(state_database(client, settings.mongo)).get("default")
    assert refreshed.versions == {"clip": "tiny-2"}
    assert [entry.id for entry in refreshed.entries] == [entry.id for entry in scenes.entries]


def test_run_fits_what_serves_then_finds_nothing_new(scenes, client, settings, tmp_path):
    collection = DocumentStore(client, settings.mongo, DEFAULT).collection
    collection.update_one({"_id": 0}, {"$push": {"captions": None}})
    collection.update_one({"_id": 1}, {"$set": {"_fold": "trian"}})
    metrics = tmp_path / "trainer.prom"
    settled = [
        *("run", NAME, "--min-documents", 5, "--metric", "bleu4", "--metrics-file", metrics),
        *("--option", "min_count=0", "--option", "hidden=16", "--option", "max_length=20"),
        *("--option", "normalization=seed"),
        *("--max-epochs", 2),
    ]
    command = [sys.executable, "-m", "trainer.cli", *map(str, settled), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *epochs, first = map(json.loads, done.stdout.splitlines())  # the log goes elsewhere
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert (first["outcome"], first["documents"]) == ("promoted", 11)
    assert "1 documents are not used, because `_fold` is none of" in done.stderr
    assert "1 values in `captions` are passed over" in done.stderr
    manifest = (
        Registry(state_database(client, settings.mongo)).fetch(NAME, first["version"]).manifest
    )
    assert manifest.snapshot_id == first["snapshot_id"]
    assert {"valid_loss", "bleu4", "exact_match", "unknown_words"} <= set(manifest.metrics)
    assert manifest.preprocessing["captions"] == "seed"
    assert manifest.config["max_length"] == 20
    assert "conditional_lm: nothing new: same data" in trainer(*settled)
    assert "too little data" in trainer("run", NAME, "--min-documents", 12)
    assert 'result="nothing_new"} 1.0' in metrics.read_text()

    # A damaged checkpoint of the same fit. Fails without `InvalidCheckpoint` being caught in `run`.
    (checkpoint,) = tmp_path.glob("trainer/runs/*/checkpoint.safetensors")
    checkpoint.write_bytes(b"damaged")
    assert "the serving version stays" in trainer(*settled, "--min-gain", 9)
    assert checkpoint.read_bytes() != b"damaged"

    # Twice other data: what the first fit has left goes. Fails without `remove_old` in the job.
    for caption in ("one more", "and another"):
        collection.update_one({"_id": 0}, {"$push": {"captions": caption}})
        trainer(*settled, "--keep", 1)
    assert not checkpoint.exists()
    for kind in ("snapshots", "runs"):  # the newest when the job began, and its own
        assert len(list((tmp_path / "trainer" / kind).iterdir())) == 2


def test_sigterm_ends_a_job_in_good_order(scenes, client, settings, monkeypatch):
    """Fails without `_ended_by_sigterm`: the lease keeps the next job from starting."""
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or pytest would end instead
    state = state_database(client, settings.mongo)

    def fit(*_, **__):
        assert state["trainer_lease"].find_one()["owner"] is not None
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal was ignored")

    monkeypatch.setattr("trainer.fit.fit.fit", fit)
    try:
        with pytest.raises(SystemExit) as ended:
            trainer("run", NAME, "--min-documents", 5)
        assert ended.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert state["trainer_lease"].find_one()["owner"] is None
    assert state["trainer_runs"].find_one()["reason"] == "stopped by a signal"
