"""`captionstream doctor` names what is wrong and the remedy."""

import io

import huggingface_hub
import pytest

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.errors import SettingsError, StoreRefuses
from streams.kafka.topics import create_topics
from streams.local.child import Child
from streams.local.mongod import find_mongod
from streams.local.supervisor import run_stack
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations
from streams.operate.commands.doctor import examine
from streams.registry.versions import Registry
from streams.settings import ClipSettings
from tests.captioner import tiny_captioner
from tests.own_models import OWN
from tests.ports import free_port
from tests.tiny import write_tiny_clip


def findings(settings):
    with connect(settings.mongo) as client:
        return {finding.subject: finding for finding in examine(settings, client)}


def test_fresh_servers_lack_topics_models_and_processes(settings):
    found = findings(settings)
    assert found["versions"].is_ok
    assert found["MongoDB"].is_ok
    assert "missing topics" in found["Kafka"].detail
    assert found["Kafka"].remedy == "captionstream topics create"
    assert not found["models"].is_ok
    assert "no publisher runs" in found["processes"].detail
    assert "no sink runs" in found["processes"].detail


def test_created_topics_are_found(settings):
    assert len(create_topics(settings.kafka, DEFAULT)) == 8
    assert create_topics(settings.kafka, DEFAULT) == []
    assert findings(settings)["Kafka"].is_ok


def test_servers_that_are_away_are_told_apart(settings):
    away = settings.model_copy(
        update={
            "mongo": settings.mongo.model_copy(
                update={
                    "uri": type(settings.mongo.uri)("mongodb://127.0.0.1:1/"),
                    "timeout_seconds": 0.3,
                }
            ),
            "kafka": settings.kafka.model_copy(
                update={"bootstrap_servers": "127.0.0.1:1", "request_timeout_seconds": 0.5}
            ),
        }
    )
    found = findings(away)
    assert "CAPTIONSTREAM_MONGO__URI" in found["MongoDB"].remedy
    assert "CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS" in found["Kafka"].remedy
    assert "models" not in found


def with_clip(settings, model, pretrained):
    clip = ClipSettings(model=str(model), pretrained=pretrained)
    return settings.model_copy(update={"clip": clip})


@pytest.mark.parametrize(
    ("model", "pretrained", "detail"),
    [
        ("tiny", "openai", "neither a file nor a tag of tiny"),
        ("RN50", "opnai", "neither a file nor a tag of RN50"),
        ("RN50", "gone.pt", "neither a file nor a tag of RN50"),
        ("RN50", "laion2b_s34b_b79k", "neither a file nor a tag of RN50"),
        ("RN5000", "openai", "knows no model 'RN5000'"),
        ("tiny", "bundled", "only the model `scenes` has `bundled` weights"),
        ("tiny", "random", "mean nothing"),
    ],
)
def test_weights_that_cannot_be_had_or_mean_nothing_are_named(
    settings, tmp_path, model, pretrained, detail
):
    """Fails without `check_weights`."""
    named = write_tiny_clip(tmp_path) if model == "tiny" else model
    found = findings(with_clip(settings, named, pretrained))["CLIP weights"]
    assert not found.is_ok
    assert detail in found.detail
    assert "CAPTIONSTREAM_CLIP__PRETRAINED" in found.remedy


def test_weights_are_looked_at_without_loading_them(settings, tmp_path, monkeypatch):
    def detail(pretrained):
        found = findings(with_clip(settings, "RN50", pretrained))["CLIP weights"]
        assert found.is_ok
        return found.detail

    cached = None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    assert detail("openai") == "RN50 openai, will be downloaded"
    cached = "somewhere"
    assert detail("openai") == "RN50 openai"
    (tmp_path / "own.pt").write_bytes(b"")
    assert detail(str(tmp_path / "own.pt")) == f"RN50 {tmp_path / 'own.pt'}"


@pytest.mark.parametrize(
    ("running", "is_ok"), [("scenes-bundled-0123456789ab", True), ("RN50-openai-0123", False)]
)
def test_other_clip_than_that_of_the_stages_is_named(settings, running, is_ok):
    """Fails when only the settings of the shell are judged."""
    with connect(settings.mongo) as client:
        report = {"format": 1, "stage": "clip", "url": "", "is_ready": True}
        clip = {"models": ["clip"], "versions": {"clip": running}}
        reports = state_database(client, settings.mongo)["processes"]
        reports.update_one({}, [{"$set": {**report, **clip, "at": "$$NOW"}}], upsert=True)
        found = findings(with_clip(settings, "scenes", "bundled"))["CLIP weights"]
    assert found.is_ok is is_ok
    assert f"what runs is {running}" in found.detail
    assert is_ok or "the settings here mean scenes-bundled" in found.detail


def test_standalone_server_is_named_by_doctor_and_by_up(settings, tmp_path):
    """Fails without the looks at `setName`."""
    port = free_port()
    single = Child(
        "mongod",
        [
            *(str(find_mongod(settings.local)), "--bind_ip", "127.0.0.1", "--port", str(port)),
            *("--dbpath", str(tmp_path), "--nounixsocket", "--quiet"),
            *("--wiredTigerCacheSizeGB", "0.25"),
        ],
        log=tmp_path / "log",
        cwd=tmp_path,
        environment={"LC_ALL": "C"},
    )
    single.start()
    try:
        uri = f"mongodb://127.0.0.1:{port}/"
        single_server = {
            "uri": type(settings.mongo.uri)(uri),
            "timeout_seconds": 100.0,
        }  # it starts
        mongo = settings.mongo.model_copy(update=single_server)
        settings = settings.model_copy(update={"mongo": mongo})
        found = findings(settings)
        assert "is a standalone server" in found["MongoDB"].detail
        assert "--replSet rs0" in found["MongoDB"].remedy
        with pytest.raises(SettingsError, match=r"single server.*rs\.initiate\(\)"):
            run_stack(
                settings,
                data_dir=tmp_path / "stack",
                mongo_uri=uri,
                kafka="127.0.0.1:1",
                out=io.StringIO(),
            )
    finally:
        single.kill()


def test_view_is_named_by_doctor_and_by_up(settings, tmp_path, mongo_database):
    """Fails without `check`: everything is ready, and nothing happens."""
    mongo_database.create_collection(settings.mongo.collection, viewOn="o", pipeline=[])
    found = findings(settings)["collection"]
    assert (found.is_ok, "is a view" in found.detail) == (False, True)
    uri = settings.mongo.uri.get_secret_value()
    with pytest.raises(StoreRefuses, match="is a view"):
        run_stack(
            settings,
            data_dir=tmp_path / "stack",
            mongo_uri=uri,
            kafka="127.0.0.1:1",
            out=io.StringIO(),
        )


def test_refused_version_is_named_with_the_way_back(settings):
    with connect(settings.mongo) as client:
        registry = Registry(state_database(client, settings.mongo))
        good, bad = (registry.publish(tiny_captioner(seed=seed)) for seed in range(2))
        registry.promote("conditional_lm", good, reason="test")
        pointer = registry.promote("conditional_lm", bad, reason="test")
        registry.refuse(pointer, reason="weight x holds NaN", serving=good)
    found = findings(settings)["models"]
    assert not found.is_ok
    assert found.detail == f"conditional_lm {bad} is refused: weight x holds NaN"
    assert "models rollback" in found.remedy


def test_classes_that_cannot_be_used_here_are_named(settings):
    """Fails when built-in kinds only are looked at."""
    with connect(settings.mongo) as client:
        declarations = Declarations(state_database(client, settings.mongo), settings.mongo.tenant)
        declarations.replace(OWN.declarations, expected_revision=0, reason="test")
        found = findings(settings)["classes"]
        assert (found.is_ok, "tests.own_models:Colour, " in found.detail) == (True, True)
        gone = Declaration(name="gone", kind="gone_shop.models:Colour", key="img")
        declarations.replace([*OWN.declarations, gone], expected_revision=1, reason="test")
    found = findings(settings)["classes"]
    assert not found.is_ok
    assert "gone_shop.models:Colour cannot be imported here" in found.detail
    assert "install its package" in found.detail
