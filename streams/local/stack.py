"""What a running stack writes about itself into its data directory, so that other commands find it.

Knows the files `stack.json` and `lock`; starts and stops nothing.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import SecretStr

from streams.errors import SettingsError
from streams.mongo.client import without_password
from streams.settings import Settings

SUPERVISOR: Final = "supervisor"
MONGOD: Final = "mongod"
BROKER: Final = "broker"
_STACK_FILE: Final = "stack.json"
_LOCK_FILE: Final = "lock"
#: Start times of one process, read twice, differ by less than this many seconds.
_SAME_START_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StackInfo:
    """Addresses and processes of one running stack.

    Attributes:
        mongo_uri: Connection string.
        database: Database that is watched.
        collection: Collection that is watched.
        kafka: Broker, host:port.
        metrics: URL of /metrics by process.
        pids: Process id by process, servers and `supervisor` among them.
        state_database: Where positions and models live.
        kafka_prefix: Prefix of topics and groups.
        started: When the supervisor started, seconds since the epoch (a reused pid has another).
    """

    mongo_uri: str
    database: str
    collection: str
    kafka: str
    metrics: Mapping[str, str]
    pids: Mapping[str, int]
    state_database: str
    kafka_prefix: str
    started: float

    def announcement(self) -> str:
        """Return the line of JSON that says the stack is ready."""
        names = ("mongo_uri", "database", "collection", "kafka", "metrics", "pids")
        shown = {name: getattr(self, name) for name in names}
        return json.dumps(shown | {"mongo_uri": without_password(self.mongo_uri)})


def write_stack(directory: Path, stack: StackInfo) -> None:
    """Replace the file; a reader sees the old or the new one. Only its owner may read it.

    The connection string may hold a password.
    """
    aside = directory / f"{_STACK_FILE}.new"
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(stack), file)
    aside.replace(directory / _STACK_FILE)


def remove_stack(directory: Path) -> None:
    """Say that no stack runs any more."""
    (directory / _STACK_FILE).unlink(missing_ok=True)


def read_stack(directory: Path) -> StackInfo:
    """Return the stack that runs in a data directory.

    Raises:
        SettingsError: None runs there, or it is not ready yet.
    """
    remedy = f"start it with `captionstream up --data-dir {directory}`"
    try:
        values: dict[str, Any] = json.loads((directory / _STACK_FILE).read_text())
        stack = StackInfo(**values)
    except FileNotFoundError as exc:
        msg = f"no stack is ready in {directory}: {remedy} and wait until its servers run"
        raise SettingsError(msg) from exc
    except (OSError, json.JSONDecodeError, TypeError) as exc:
        msg = f"{directory / _STACK_FILE} cannot be read ({exc}): {remedy}"
        raise SettingsError(msg) from exc
    if not _is_running(stack):
        msg = f"the stack in {directory} ended without a farewell: {remedy}"
        raise SettingsError(msg)
    return stack


def settings_for(stack: StackInfo, settings: Settings) -> Settings:
    """Return the settings with the addresses and names of a running stack."""
    # What is embedded has neither users nor TLS; what was given is what the environment says.
    mongo = settings.mongo.without_security() if MONGOD in stack.pids else settings.mongo
    kafka = settings.kafka.without_security() if BROKER in stack.pids else settings.kafka
    return settings.model_copy(
        update={
            "mongo": mongo.model_copy(
                update={
                    "uri": SecretStr(stack.mongo_uri),
                    "database": stack.database,
                    "collection": stack.collection,
                    "state_database": stack.state_database,
                }
            ),
            "kafka": kafka.model_copy(
                update={"bootstrap_servers": stack.kafka, "prefix": stack.kafka_prefix}
            ),
        }
    )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a data directory for one supervisor; the lock ends with the process.

    Raises:
        SettingsError: Another stack runs there.
    """
    with (directory / _LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            msg = (
                f"a stack runs in {directory} already (process {holder});"
                " stop it, or choose another --data-dir"
            )
            raise SettingsError(msg) from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _is_running(stack: StackInfo) -> bool:
    try:
        process = psutil.Process(stack.pids[SUPERVISOR])
        is_same = abs(process.create_time() - stack.started) < _SAME_START_SECONDS
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except (KeyError, psutil.NoSuchProcess):
        return False
