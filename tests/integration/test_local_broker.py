import socket
from pathlib import Path

import psutil
import pytest
from kafka import KafkaProducer

from streams.contract.default_pipeline import DEFAULT
from streams.errors import BrokerUnavailable, SettingsError
from streams.kafka.topics import create_topics, read_topic_states
from streams.local.broker import Broker, find_broker
from streams.settings import KafkaSettings, LocalSettings
from tests.ports import free_port


def test_a_started_broker_has_topics_and_takes_records(broker: Broker) -> None:
    broker.start()
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    created = create_topics(settings, DEFAULT)
    assert read_topic_states(settings, DEFAULT).missing == []
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
    sent = producer.send(created[0], key=b"key", value=b"value").get(timeout=30)
    producer.close()
    assert sent.offset == 0


def test_a_restart_keeps_the_address_and_begins_with_an_empty_log(broker: Broker) -> None:
    broker.start()
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    create_topics(settings, DEFAULT)
    broker.kill()
    assert not broker.is_alive()
    broker.start()
    assert len(read_topic_states(settings, DEFAULT).missing) > 0


def test_stop_leaves_no_process(broker: Broker) -> None:
    broker.start()
    pid = broker.pid
    assert pid is not None
    broker.stop()
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = Broker(
            find_broker(LocalSettings()), directory=tmp_path, log=tmp_path / "log", port=port
        )
        with pytest.raises(BrokerUnavailable, match=f"port {port} is taken"):
            taken.start()


def test_a_program_that_ends_says_why_in_one_line(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no such option\nexit 7\n")
    program.chmod(0o755)
    broken = Broker(program, directory=tmp_path, log=tmp_path / "log", port=free_port())
    with pytest.raises(BrokerUnavailable, match=r"ended with code 7; no such option \(log: "):
        broken.start()


def test_a_missing_binary_of_the_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CAPTIONSTREAM_LOCAL__BROKER.*nowhere"):
        find_broker(LocalSettings(broker=str(tmp_path / "nowhere")))


def test_without_any_binary_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("streams.local.programs._in_wheel", lambda *_: None)
    with pytest.raises(SettingsError, match=r"captionstream\[local\].*--kafka"):
        find_broker(LocalSettings())
