"""`captionstream doctor` names what is wrong and the remedy."""

from streams.commands.doctor import examine
from streams.mongo import connect, state_database
from streams.registry import Registry
from streams.settings import ClipSettings
from streams.topics import create_topics
from tests.captioner import tiny_captioner
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
    assert len(create_topics(settings.kafka)) == 8
    assert create_topics(settings.kafka) == []
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


def test_weights_are_looked_at_without_loading_them(settings, tmp_path):
    def weights(pretrained):
        clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained=pretrained)
        return findings(settings.model_copy(update={"clip": clip}))["CLIP weights"]

    assert weights("openai").is_ok
    assert "mean nothing" in weights("random").detail
    assert "no file" in weights("gone.pt").detail


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
