import os

import pytest

from streams.settings import (
    ENVIRONMENT_PREFIX,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    MongoSettings,
    Settings,
    child_environment,
    load_settings,
)


def test_a_child_reads_exactly_the_settings_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        mongo=MongoSettings(uri="mongodb://user:p%40ss@db.example/?replicaSet=rs1"),
        kafka=KafkaSettings(bootstrap_servers="a:1,b:2", retention_hours=0.5),
        http=HttpSettings(port=8123),
        local=LocalSettings(broker="/opt/tansu"),
    )
    monkeypatch.setenv(f"{ENVIRONMENT_PREFIX}MONGO__STATE_DATABASE", "of_the_parents_shell")
    environment = child_environment(settings)
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_child_inherits_everything_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/cache")
    assert child_environment(Settings())["HF_HOME"] == "/cache"
