"""Weights from a hub that does not answer: a socket of the test. Nothing is downloaded."""

import os
import socket
import subprocess
import sys

import pytest

PROGRAM = """
from streams.errors import SettingsError
from streams.models.clip import ClipEncoder
from streams.settings import ClipSettings
try:
    ClipEncoder(ClipSettings(model="ViT-B-32", pretrained="openai"))
except SettingsError as exc:
    print(exc)
"""


@pytest.fixture
def hub():
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server


def address_of(hub):
    return f"http://127.0.0.1:{hub.getsockname()[1]}"


def ask(address, home):
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment = kept | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    return done.stdout


def connections(hub):
    """How many clients have connected so far."""
    hub.setblocking(False)
    count = 0
    while True:
        try:
            connection, _ = hub.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def test_silent_hub_is_asked_once_and_the_remedy_is_named(hub, tmp_path):
    message = ask(address_of(hub), tmp_path)
    assert "CLIP weights 'openai' of ViT-B-32 cannot be had" in message
    assert "cannot be reached: timed out" in message
    assert "set CAPTIONSTREAM_CLIP__PRETRAINED to the path of a checkpoint" in message
    assert "CAPTIONSTREAM_CLIP__MODEL=ViT-B-32-quickgelu" in message
    assert "`random` for a trial" in message
    assert connections(hub) == 1


def test_hub_that_refuses_connections_is_named(hub, tmp_path):
    address = address_of(hub)
    hub.close()
    assert "cannot be reached" in ask(address, tmp_path)
