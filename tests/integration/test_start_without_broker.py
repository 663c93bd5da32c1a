"""The broker goes in the moment between a stage's last look at it and Faust's first."""

import signal
import subprocess
import sys
import threading

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.kafka.topics import create_topics
from streams.settings import KafkaSettings, Settings, child_environment
from tests.waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture
def stage(broker, tmp_path):
    """A stage that starts; killed afterwards. Its log is `stage.log`."""
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=broker.bootstrap_servers))
    with (
        (tmp_path / "stage.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.starting"],
            env=child_environment(settings),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        wait_until(
            lambda: "Unable connect" in (tmp_path / "stage.log").read_text(),
            doing="a first attempt",
        )
        yield process
        process.kill()


def test_stage_waits_for_a_broker_that_is_away_as_it_starts(stage, broker):
    """Fails without `_await_broker`: the process ends with code 1."""
    broker.start()
    create_topics(KafkaSettings(bootstrap_servers=broker.bootstrap_servers), DEFAULT)
    watchdog = threading.Timer(200, stage.kill)
    watchdog.start()
    said = stage.stdout.readline()
    watchdog.cancel()
    assert said == "assigned\n", stage.poll()


def test_stage_that_waits_for_the_broker_ends_cleanly(stage):
    stage.send_signal(signal.SIGTERM)
    assert stage.wait(timeout=DEADLINE_SECONDS) == 0


def test_signals_that_come_again_change_nothing(stage):
    """Fails without `SIG_IGN` in `Worker.on_stop`: the process ends by the signal."""

    def is_over():
        stage.send_signal(signal.SIGTERM)
        return stage.poll() is not None

    wait_until(is_over, doing="the end", pause_seconds=0.01)
    assert stage.returncode == 0
