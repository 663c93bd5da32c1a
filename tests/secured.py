"""Servers with TLS and users: a real mongod, and a real broker behind a gate."""

import secrets
import ssl
from contextlib import contextmanager

import trustme
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from streams.local.broker import find_broker
from streams.local.child import Child
from streams.local.mongod import REPLICA_SET, Mongod, find_mongod
from streams.local.ports import is_free
from streams.settings import Settings
from tests.kafka_gate import Gate
from tests.ports import free_port
from tests.waiting import wait_until


def write_certificates(directory):
    """CA, certificates of a server and of a client, and a CA that signed nothing; PEM files."""
    names = ("ca", "server", "client", "other")
    paths = {name: str(directory / f"{name}.pem") for name in names}
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other"])
    for name, host in (("server", "127.0.0.1"), ("client", "client.test")):
        ca.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(paths[name])
    return paths


@contextmanager
def gated_broker(directory, files, *, users):
    """A broker that tells its clients to come through a gate with TLS and users; yields the gate
    and its port.
    """
    backend, front = free_port(), free_port()
    listener, advertised = f"tcp://127.0.0.1:{backend}", f"tcp://127.0.0.1:{front}"
    broker = Child(
        "broker",
        [
            *(str(find_broker(Settings().local)), "broker", "--listener-url", listener),
            *("--advertised-listener-url", advertised, "--storage-engine", "memory://tansu/"),
        ],
        log=directory / "broker.log",
        cwd=directory,
        environment={"LC_ALL": "C"},
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["server"])
    context.load_verify_locations(files["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    broker.start()
    wait_until(lambda: not is_free(backend), doing="the broker to listen")
    gate = Gate(port=front, backend=backend, tls=context, users=users)
    try:
        yield gate, front
    finally:
        gate.close()
        broker.stop(10)


@contextmanager
def secured_mongod(directory, files, *, password):
    """A mongod that wants TLS, client certificates and users; yields its port.

    Its user `root` may do everything. It is configured while it is still open.
    """
    port = free_port()
    binary = find_mongod(Settings().local)
    data = directory / "data"
    opened = Mongod(binary, data=data, log=directory / "open.log", port=port, cache_gb=0.25)
    opened.start()
    with MongoClient(opened.uri) as client:
        client.admin.command("createUser", "root", pwd=password, roles=["root"])
    opened.stop()
    key = directory / "key"
    key.write_text(secrets.token_hex(64))
    key.chmod(0o600)
    child = Child(
        "mongod",
        [
            *(str(binary), "--replSet", REPLICA_SET, "--bind_ip", "127.0.0.1"),
            *("--port", str(port), "--dbpath", str(data), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--tlsMode", "requireTLS"),
            *("--tlsCertificateKeyFile", files["server"], "--tlsCAFile", files["ca"]),
            *("--auth", "--keyFile", str(key)),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
        ],
        log=directory / "secured.log",
        cwd=directory,
        environment={"LC_ALL": "C"},
    )
    child.start()
    try:
        with root_client(port, files, password) as client:
            wait_until(lambda: _is_primary(client), doing="the secured mongod to be a primary")
        yield port
    finally:
        child.stop(30)


def root_client(port, files, password):
    return MongoClient(
        f"mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}",
        tls=True,
        tlsCAFile=files["ca"],
        tlsCertificateKeyFile=files["client"],
        username="root",
        password=password,
        serverSelectionTimeoutMS=3000,
    )


def _is_primary(client):
    try:
        return client.admin.command("hello")["isWritablePrimary"]
    except PyMongoError:
        return False
