"""Ways to do harm to a running stack. Each does one thing and returns what it did, in words."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pymongo.errors import PyMongoError

from streams.capture.producer import publish_all
from streams.dead_letter_log import read_topics
from streams.errors import BrokerUnavailable
from streams.events import IMAGE_CHANGED, Record
from streams.settings import Settings, child_environment
from streams.topics import TOPICS, dead_letter_topic, topic_name
from tests.acceptance.stack import Stack
from tests.captioner import publish_tiny_captioner
from tests.faults.clock import JumpingClock

PROCESSES = ("publisher", "featurize", "project", "caption", "sink")
EVERY_TOPIC = (*TOPICS, *(dead_letter_topic(topic) for topic in TOPICS))
#: Keys that break a decoder of extended JSON, that would match other documents, or fail a query.
_HOSTILE_KEYS = (
    b'{"$oid":"f"}',
    b'{"$binary":{}}',
    b"[" * 100_000,
    b'{"$gt":""}',
    b'{"$regularExpression":{"pattern":".","options":""}}',
    b'{"a":' * 200 + b"1" + b"}" * 200,
)
#: Records that one strike takes from a topic and sends again.
_TAKEN = 30


@dataclass
class Target:
    """What is struck, and by what chance."""

    stack: Stack
    settings: Settings
    random: random.Random
    clock: JumpingClock
    pause_seconds: float
    seeds: itertools.count = field(default_factory=lambda: itertools.count(1))
    #: Whatever has to be over before the documents are looked at.
    pending: list[threading.Thread] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


Strike = Callable[[Target], str]


def kill_process(target: Target) -> str:
    """SIGKILL."""
    return _signal(target, target.random.choice(PROCESSES), signal.SIGKILL)


def end_process(target: Target) -> str:
    """SIGTERM: the process ends cleanly and is started again."""
    return _signal(target, target.random.choice(PROCESSES), signal.SIGTERM)


def freeze_process(target: Target) -> str:
    """SIGSTOP, and SIGCONT later: it wakes up when others have gone on."""
    name = target.random.choice(PROCESSES)
    pid = target.stack.pids().get(name)
    done = _signal(target, name, signal.SIGSTOP)
    if pid is not None:
        timer = threading.Timer(target.pause_seconds, _resume, (pid,))
        timer.start()
        target.pending.append(timer)
    return done


def kill_mongod(target: Target) -> str:
    """SIGKILL; its journal survives."""
    return _signal(target, "mongod", signal.SIGKILL)


def kill_broker(target: Target) -> str:
    """SIGKILL; its whole log is gone."""
    return _signal(target, "broker", signal.SIGKILL)


def kill_supervisor(target: Target) -> str:
    """SIGKILL; its processes and servers go with it. It is started again on the same data."""
    target.stack.kill()
    return "SIGKILL supervisor"


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


def repeat_records(target: Target) -> str:
    """Old records of a topic come again, late and in another order."""
    topic = target.random.choice(EVERY_TOPIC)
    name = topic_name(topic, target.settings.kafka)
    with suppress(BrokerUnavailable):
        found = [
            Record(key=message.key or b"", value=message.value, headers=list(message.headers))
            for _, message in read_topics([name], target.settings.kafka)
        ]
        chosen = target.random.sample(found, min(_TAKEN, len(found)))
        publish_all([(topic, record) for record in chosen], target.settings.kafka)
    return f"records of {topic} again"


def send_garbage(target: Target) -> str:
    """What is no event of ours, on every topic."""
    junk = target.random.randbytes(100)
    headers = [
        [],
        [("ce_type", b"captions.image.changed.v99"), ("ce_source", b"/captions.documents")],
        [("ce_type", TOPICS[0].encode()), ("ce_source", b"/other.collection")],
        [("ce_type", junk), ("ce_clustertime", junk), ("ce_source", junk)],
    ]
    records = [
        (topic, Record(key=target.random.randbytes(8), value=value, headers=chosen))
        for topic in EVERY_TOPIC
        for chosen in headers
        for value in (junk, None)
    ]
    ours = [
        ("ce_type", IMAGE_CHANGED.encode()),
        ("ce_source", f"/{target.settings.mongo.tenant}".encode()),
        ("ce_clustertime", b"1.1"),
    ]
    records += [
        (topic, Record(key=key, value=b'{"origin":"live"}', headers=ours))
        for topic in EVERY_TOPIC
        for key in _HOSTILE_KEYS
    ]
    with suppress(BrokerUnavailable):
        publish_all(records, target.settings.kafka)
    return "garbage on every topic"


def promote_captioner(target: Target) -> str:
    """Another captioner serves, and everything is captioned again."""
    with suppress(PyMongoError):
        info = target.stack.info
        publish_tiny_captioner(info["mongo_uri"], info["database"], seed=next(target.seeds))
    return "promotion"


def add_guest(target: Target) -> str:
    """One more process of a stage joins, works for a while, and leaves without a word or with."""
    name = target.random.choice(PROCESSES)
    guest = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "run", name],
        env=child_environment(target.settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    how = target.random.choice([signal.SIGKILL, signal.SIGTERM])

    def leave() -> None:
        guest.send_signal(how)
        code = guest.wait()
        if code != (0 if how == signal.SIGTERM else -how):
            target.problems.append(f"a second {name} ended with code {code} after {how.name}")

    timer = threading.Timer(target.pause_seconds + 5, leave)
    timer.start()
    target.pending.append(timer)
    return f"a second {name} joins, leaves by {how.name}"


STRIKES: Mapping[Strike, int] = {
    kill_process: 8,
    end_process: 3,
    freeze_process: 3,
    kill_mongod: 1,
    kill_broker: 1,
    kill_supervisor: 1,
    jump_clock: 2,
    step_down: 1,
    repeat_records: 3,
    send_garbage: 1,
    promote_captioner: 1,
    add_guest: 2,
}
"""Every strike, and how often it comes, relative to the others."""


def _signal(target: Target, name: str, number: signal.Signals) -> str:
    pid = target.stack.pids().get(name)
    try:
        if pid is None:
            raise ProcessLookupError
        os.kill(pid, number)
    except ProcessLookupError:
        return f"{name} was not running"
    return f"{number.name} {name}"


def _resume(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
