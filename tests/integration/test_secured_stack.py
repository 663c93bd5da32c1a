"""The whole pipeline on servers with TLS and users, every process with no more than its role."""

import io
import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from pydantic import SecretStr
from pymongo.errors import OperationFailure

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentChanged, Origin
from streams.errors import StoreUnavailable
from streams.kafka.topics import create_topics
from streams.mongo.client import cluster_time, connect, mongo_errors, state_database
from streams.mongo.roles import role_name, roles
from streams.mongo.store import DocumentStore
from streams.reconcile.oversized import note_refused
from streams.registry.versions import Registry
from streams.settings import KafkaSettings, MongoSettings
from streams.stages import processes_of
from tests.captioner import promote_tiny_captioner
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.ports import free_port
from tests.secured import gated_broker, root_client, secured_mongod, write_certificates
from tests.tiny import write_tiny_clip
from tests.waiting import DEADLINE_SECONDS, wait_until

PASSWORD = "Pw:of/@all?%41"
PROCESSES = processes_of(DEFAULT)
PEOPLE = ("producer", "trainer", "operator")


@dataclass
class Secured:
    """Servers, and settings of one of their users."""

    files: dict[str, str]
    mongod: int
    broker: int
    directory: Path

    def mongo(self, user: str = "operator", **changes: Any) -> MongoSettings:
        values = {
            "uri": f"mongodb://127.0.0.1:{self.mongod}/?replicaSet=rs0",
            "username": user,
            "password": PASSWORD,
            "tls_ca_file": self.files["ca"],
            "tls_certificate_key_file": self.files["client"],
            "timeout_seconds": 5.0,
        }
        return MongoSettings(**(values | changes))

    def kafka(self) -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{self.broker}",
            security_protocol="SASL_SSL",
            sasl_username="alice",
            sasl_password=PASSWORD,
            ssl_ca_file=self.files["ca"],
            ssl_certificate_file=self.files["client"],
            partitions=1,
        )

    def environment(self, user: str, **more: str) -> dict[str, str]:
        sections = {"MONGO": self.mongo(user), "KAFKA": self.kafka()}
        values = {
            f"CAPTIONSTREAM_{section}__{name.upper()}": value.get_secret_value()
            if isinstance(value, SecretStr)
            else str(value)
            for section, settings in sections.items()
            for name, value in settings
            if value is not None
        }
        return os.environ | values | more | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def command(self, user: str, *words: str) -> str:
        """Run a command to its end and return all that it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli", *words],
            env=self.environment(user),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secured")
    files = write_certificates(directory)
    with (
        secured_mongod(directory, files, password=PASSWORD) as mongod,
        gated_broker(directory, files, users={"alice": PASSWORD}) as (_, broker),
    ):
        found = Secured(files=files, mongod=mongod, broker=broker, directory=directory)
        settings = found.mongo()
        with root_client(mongod, files, PASSWORD) as root:
            for role, privileges in roles(settings, DEFAULT).items():
                root.admin.command("createRole", role, privileges=privileges, roles=[])
            for user in (*PROCESSES, *PEOPLE):
                role = role_name(user, settings)
                root.admin.command("createUser", user, pwd=PASSWORD, roles=[role])
        create_topics(found.kafka(), DEFAULT)
        yield found


@contextmanager
def running(secured, directory):
    """All processes, each as its own user; yields their logs, ports and processes."""
    clip = str(write_tiny_clip(directory))
    found = {}
    for name in PROCESSES:
        port = free_port()
        environment = secured.environment(
            name,
            CAPTIONSTREAM_CLIP__MODEL=clip,
            CAPTIONSTREAM_CLIP__PRETRAINED="random",
            CAPTIONSTREAM_MODELS__POLL_INTERVAL_SECONDS="0.2",
            CAPTIONSTREAM_HTTP__PORT=str(port),
            CAPTIONSTREAM_LOG__LEVEL="debug",
        )
        log = (directory / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "run", name],
            env=environment,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        found[name] = (process, port)
    try:
        yield found
    finally:
        for process, _ in found.values():
            process.terminate()
        for process, _ in found.values():
            assert process.wait(timeout=DEADLINE_SECONDS) == 0


def png():
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 90, 20)).save(data, "PNG")
    return data.getvalue()


def get(port, path):
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(url) as reply:
            return reply.read().decode()
    except OSError as exc:
        return str(exc)


def test_each_process_works_with_its_role_and_no_secret_is_seen(secured, tmp_path):
    """Outputs, logs, /metrics, arguments and answers of commands are searched for the password."""
    seen = {}
    with (
        connect(secured.mongo("producer")) as producer,
        connect(secured.mongo("trainer")) as trainer,
        running(secured, tmp_path) as processes,
    ):
        documents = producer["captions"]["documents"]
        documents.insert_one({"_id": 1, "img": png()})
        registry = Registry(state_database(trainer, secured.mongo()))
        wait_until(lambda: registry.pointer("clip"), doing="clip to announce its version")
        promote_tiny_captioner(registry)
        wait_until(
            lambda: documents.find_one({f"{CONDITIONAL_LM.path}.value": {"$exists": True}}),
            doing="a caption",
        )
        for name, (process, port) in processes.items():
            seen |= {f"{name}{path}": get(port, path) for path in ("/metrics", "/healthz")}
            seen[f"{name} readyz"] = get(port, "/readyz")
            seen[f"{name} arguments"] = " ".join(psutil.Process(process.pid).cmdline())
        seen["status"] = secured.command("operator", "status", "--json")
        seen["doctor"] = secured.command("operator", "doctor")
    seen |= {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert json.loads(seen["status"])["documents"]
    assert "all topics exist" in seen["doctor"]
    for where, text in seen.items():
        assert text, where
        assert PASSWORD not in text, where
        assert "not authorized" not in text, where


def test_publisher_may_note_what_kafka_refuses(secured):
    """Fails without `update` in its role: the same event would stop each of its terms."""
    with (
        connect(secured.mongo("producer")) as producer,
        connect(secured.mongo("publisher")) as ours,
    ):
        documents = producer["captions"]["documents"]
        documents.insert_one({"_id": "large", "img": b"x"})
        event = DocumentChanged(document_id="large", source=cluster_time(ours), origin=Origin.LIVE)
        registry = Registry(state_database(ours, secured.mongo()))
        store = DocumentStore(ours, secured.mongo(), DEFAULT)
        note_refused([event], store=store, serving=lambda: registry.serving(DEFAULT))
        assert documents.find_one({f"{CLIP.path}.error.type": "InvalidId"})
        documents.delete_one({"_id": "large"})
        for what in ("drop the collection", "insert", "delete", "upsert"):
            with pytest.raises(OperationFailure):
                FORBIDDEN[what](ours)


FORBIDDEN = {
    "drop the collection": lambda client: client["captions"]["documents"].drop(),
    "insert": lambda client: client["captions"]["documents"].insert_one({}),
    "delete": lambda client: client["captions"]["documents"].delete_one({}),
    "upsert": lambda client: client["captions"]["documents"].update_one(
        {"_id": "new"}, {"$set": {"a": 1}}, upsert=True
    ),
    "read another database": lambda client: client["other"]["things"].find_one(),
    "read users": lambda client: client["admin"]["system.users"].find_one(),
    "delete a version": lambda client: client["captions_captionstream"][
        "model_versions"
    ].delete_one({}),
    "move the position": lambda client: client["captions_captionstream"]["positions"].update_one(
        {"_id": "x"}, {"$set": {"epoch": 0}}
    ),
}


@pytest.mark.parametrize("user", ["clip", "clip_projection", "conditional_lm", "sink"])
def test_a_stage_may_do_nothing_else(secured, user):
    with connect(secured.mongo(user)) as client:
        for what, action in FORBIDDEN.items():
            with pytest.raises(OperationFailure) as caught:
                action(client)
            assert caught.value.code == 13, what


@pytest.mark.parametrize("user", ["publisher", "conditional_lm", "sink", "producer"])
def test_the_registry_is_written_only_by_whoever_must(secured, user):
    with connect(secured.mongo(user)) as client, pytest.raises(OperationFailure) as caught:
        state_database(client, secured.mongo())["model_versions"].insert_one({"_id": "x"})
    assert caught.value.code == 13


def refused(settings):
    with connect(settings) as client, pytest.raises(StoreUnavailable) as caught:
        cluster_time(client)
    message = str(caught.value)
    assert PASSWORD not in message
    assert "\n" not in message
    return message


def test_wrong_ca_names_its_setting(secured):
    settings = secured.mongo(tls_ca_file=secured.files["other"], timeout_seconds=3.0)
    assert "CAPTIONSTREAM_MONGO__TLS_CA_FILE" in refused(settings)


def test_wrong_password_names_its_setting(secured):
    message = refused(secured.mongo(password="wrong-one"))
    assert "CAPTIONSTREAM_MONGO__PASSWORD" in message
    assert "wrong-one" not in message


def test_no_tls_names_its_setting(secured):
    settings = secured.mongo(tls_ca_file=None, tls_certificate_key_file=None, timeout_seconds=3.0)
    assert "CAPTIONSTREAM_MONGO__TLS" in refused(settings)


def test_a_missing_right_names_the_command_that_prints_it_and_no_document(secured):
    with connect(secured.mongo("sink")) as client, pytest.raises(StoreUnavailable) as caught:
        with mongo_errors("trying"):
            client["captions"]["documents"].insert_one({"private": "content"})
    assert "captionstream roles" in str(caught.value)
    assert "content" not in str(caught.value)
