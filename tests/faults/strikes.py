"""Ways to do harm to running processes and servers, and the table of every strike there is."""

import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress

from pymongo.errors import PyMongoError

from tests.faults.data_strikes import (
    drop_collection,
    insert_large,
    promote_captioner,
    rename_collection,
    repeat_records,
    send_garbage,
    tear_registry,
)
from tests.faults.guests import add_deadly_guest, add_guest
from tests.faults.pipeline_strikes import change_pipeline
from tests.faults.target import Strike, Target

#: Frozen servers hold up everybody; the supervisor has to bear with that, not to act.
_SERVER_FREEZE_SECONDS = 5.0
_LATE = re.compile(r"(\w+) did not end within")
#: A change stream's fatal error, a lost cursor, and a primary that is none.
_STREAM_ERRORS = (280, 43, 10107)
#: The oplog no longer reaches back.
_LOST_HISTORY = (286, 136)


def kill_process(target: Target) -> str:
    """SIGKILL."""
    name = target.random.choice(target.processes)
    if target.signal(name, signal.SIGKILL) is None:
        return f"{name} was not running"
    target.asked[name, -signal.SIGKILL] += 1
    return f"SIGKILL {name}"


def end_process(target: Target) -> str:
    """SIGTERM: the process ends with 0 and is started again."""
    name = target.random.choice(target.processes)
    pid = target.signal(name, signal.SIGTERM)
    if pid is None:
        return f"{name} was not running"
    target.asked[name, 0] += 1
    target.expect_end(name, pid)
    return f"SIGTERM {name}"


def freeze_process(target: Target) -> str:
    """SIGSTOP, and SIGCONT later: it wakes up when others have gone on."""
    name = target.random.choice(target.processes)
    pid = target.signal(name, signal.SIGSTOP)
    if pid is None:
        return f"{name} was not running"
    target.frozen.add(name)
    target.later(target.pause_seconds, lambda: target.resume(name, pid))
    return f"SIGSTOP {name}"


def kill_mongod(target: Target) -> str:
    """SIGKILL; its journal survives."""
    return _kill_server(target, "mongod")


def kill_broker(target: Target) -> str:
    """SIGKILL; its whole log is gone."""
    target.count_sent()
    return _kill_server(target, "broker")


def freeze_server(target: Target) -> str:
    """SIGSTOP of mongod or the broker for some seconds."""
    name = target.random.choice(["mongod", "broker"])
    pid = target.signal(name, signal.SIGSTOP)
    if pid is None:
        return f"{name} was not running"

    def resume() -> None:
        target.resume(name, pid)
        target.outages.spans.append((began, time.monotonic()))

    began = time.monotonic()
    target.later(min(target.pause_seconds, _SERVER_FREEZE_SECONDS), resume)
    return f"SIGSTOP {name}"


def kill_supervisor(target: Target) -> str:
    """SIGKILL; its processes and servers go with it. It is started again on the same data."""
    target.count_sent()
    with target.outages.during():
        target.stack.kill()
    return "SIGKILL supervisor"


def end_supervisor(target: Target) -> str:
    """SIGTERM: everything ends in order, the supervisor with 0. It is started again."""
    target.count_sent()
    frozen, said = set(target.frozen), len(target.stack.said())
    with target.outages.during():
        code = target.stack.restart()
    if code != 0:
        target.problems.append(f"the supervisor ended with code {code} after SIGTERM")
    late = set(_LATE.findall(target.stack.said()[said:])) - frozen
    target.problems += [f"{name} had to be killed when all was to end" for name in sorted(late)]
    return "SIGTERM supervisor"


def jump_clock(target: Target) -> str:
    """The processes' time of day jumps, the servers' and the producers' does not."""
    hours = target.random.choice([-3, -1, 0, 1, 3])
    target.clock.jump(3600 * hours)
    return f"clock off by {hours} h"


def step_down(target: Target) -> str:
    """The primary becomes a secondary for some seconds."""
    with suppress(PyMongoError):  # it closes the connection that asks
        target.stack.client.admin.command("replSetStepDown", 3, force=True)
    return "replSetStepDown"


def fail_stream(target: Target) -> str:
    """The change stream fails, and goes on from where it was."""
    code = target.random.choice([*_STREAM_ERRORS, None])
    _fail_stream(target, code)
    return f"change stream: {code or 'connection closed'}"


def lose_history(target: Target) -> str:
    """The change stream cannot go on from where it was: everything is copied."""
    code = target.random.choice(_LOST_HISTORY)
    _fail_stream(target, code)
    return f"change stream: history lost ({code})"


def _fail_stream(target: Target, code: int | None) -> None:
    """Let it fail thrice: once more than the driver goes over by itself."""
    data = {
        "failCommands": ["aggregate", "getMore"],
        "appName": "captionstream",
        "namespace": f"{target.settings.mongo.database}.$cmd.aggregate",
        **({"closeConnection": True} if code is None else {"errorCode": code}),
    }
    if code in (*_LOST_HISTORY, 280):
        data["errorLabels"] = ["NonResumableChangeStreamError"]
    command = {"configureFailPoint": "failCommand", "mode": {"times": 3}, "data": data}
    with suppress(PyMongoError):
        target.stack.client.admin.command(command)


STRIKES: Mapping[Strike, int] = {
    kill_process: 16,
    end_process: 6,
    freeze_process: 6,
    kill_mongod: 2,
    kill_broker: 2,
    freeze_server: 2,
    kill_supervisor: 1,
    end_supervisor: 1,
    jump_clock: 4,
    step_down: 2,
    fail_stream: 3,
    lose_history: 1,
    repeat_records: 6,
    send_garbage: 2,
    promote_captioner: 2,
    tear_registry: 1,
    drop_collection: 1,
    rename_collection: 1,
    change_pipeline: 2,
    insert_large: 2,
    add_guest: 4,
    add_deadly_guest: 2,
}
"""Every strike, and how often it comes, relative to the others."""

HEALERS: frozenset[Strike] = frozenset(
    {
        kill_broker,
        kill_supervisor,
        end_supervisor,
        lose_history,
        repeat_records,
        promote_captioner,
        tear_registry,
        drop_collection,
        rename_collection,
        change_pipeline,
    }
)
"""After these, documents are published again or gone: nobody sees what was wrong before."""

PROFILES: Mapping[str, Mapping[Strike, int]] = {
    "all": STRIKES,
    "bare": {strike: weight for strike, weight in STRIKES.items() if strike not in HEALERS},
}
"""`bare`: nothing heals, the reconciler of the stack neither."""


def _kill_server(target: Target, name: str) -> str:
    pid = target.signal(name, signal.SIGKILL)
    if pid is None:
        return f"{name} was not running"
    target.expect_return(name, pid)
    return f"SIGKILL {name}"
