"""A loaded stack that is struck, and what every strike notes about it."""

import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentChanged, Origin
from streams.contract.pipeline import CHANGES, Pipeline
from streams.contract.wire import decode_event
from streams.errors import BrokerUnavailable, InvalidEvent
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import topic_name
from streams.settings import Settings
from streams.stages import is_same_process, processes_of
from tests.acceptance.stack import Stack
from tests.faults.clock import JumpingClock
from tests.faults.endings import Ending
from tests.faults.load import Load
from tests.faults.progress import Outages
from tests.pipelines import CLIP
from tests.waiting import wait_until

#: Header of records that a strike has sent again: they are no work of the stack's.
INJECTED = "injected"
#: A process that was asked to end gets so long, frozen or not.
_END_SECONDS = 90


@dataclass
class Target:
    """What is struck, and by what chance.

    Attributes:
        pending: Whatever has to be over before the documents are looked at.
        problems: What went wrong, in words.
        asked: Ends of processes that strikes have asked for.
        frozen: Processes that are stopped now.
        sent_twice: Embeddings that logs which are gone by now held more than once.
        republished: Records of documents that nobody had changed, in logs that are gone by now, by
            who sent them: a copy, the reconciler.
        looks: Spans in which the documents were verified, and nothing was changed.
        deadly: Guests that died of a document.
        pipeline: What is declared now.
        declared: How often another pipeline was declared.
    """

    stack: Stack
    settings: Settings
    load: Load
    random: random.Random
    clock: JumpingClock
    pause_seconds: float
    seeds: itertools.count = field(default_factory=lambda: itertools.count(1))
    pending: list[threading.Thread] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    asked: Counter[Ending] = field(default_factory=Counter)
    outages: Outages = field(default_factory=Outages)
    frozen: set[str] = field(default_factory=set)
    sent_twice: int = 0
    republished: Counter[str] = field(default_factory=Counter)
    looks: Outages = field(default_factory=Outages)
    deadly: int = 0
    pipeline: Pipeline = DEFAULT
    declared: int = 0

    @property
    def processes(self) -> tuple[str, ...]:
        """The processes that the declared pipeline wants."""
        return processes_of(self.pipeline)

    def note_declared(self, pipeline: Pipeline) -> None:
        """Take note of another pipeline: whoever has something else to do in it ends with 0."""
        before, self.pipeline = self.pipeline, pipeline
        self.declared += 1
        for name in {*processes_of(before), *processes_of(pipeline)}:
            self.asked[name, 0] += not is_same_process(name, before, pipeline)

    def signal(self, name: str, number: signal.Signals) -> int | None:
        """Send a signal; return the process id, None when it was not running."""
        pid = self.stack.pids().get(name)
        try:
            if pid is None:
                raise ProcessLookupError
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        return pid

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in a while, beside the strikes."""
        timer = threading.Timer(seconds, action)
        timer.start()
        self.pending.append(timer)

    def resume(self, name: str, pid: int) -> None:
        """SIGCONT."""
        self.frozen.discard(name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def expect_end(self, name: str, pid: int) -> None:
        """Note a problem if the process does not end."""

        def wait() -> None:
            try:
                wait_until(lambda: not psutil.pid_exists(pid), _END_SECONDS, doing="the end")
            except AssertionError:
                self.problems.append(f"{name} did not end within {_END_SECONDS} s of SIGTERM")

        self.later(0, wait)

    def expect_return(self, name: str, pid: int) -> None:
        """Note that a server is away until it runs again."""

        def wait() -> None:
            with self.outages.during(), suppress(AssertionError):
                wait_until(lambda: self._is_back(name, pid), 60, doing=f"the return of {name}")

        self.later(0, wait)

    def count_sent(self) -> None:
        """Count what the broker's log holds more than once, before the log goes."""
        with suppress(BrokerUnavailable):
            self.sent_twice += embeddings_twice(self.settings)
            self.republished += republished(self.settings)

    def wait_for_pending(self) -> None:
        """Wait until nothing that a strike began is under way."""
        for thread in self.pending:
            thread.join()
        self.pending.clear()

    def _is_back(self, name: str, pid: int) -> bool:
        try:
            return self.stack.pids().get(name, pid) != pid
        except OSError:  # the supervisor starts anew
            return False


Strike = Callable[[Target], str]
"""Does one thing and returns what it did, in words."""


def republished(settings: Settings) -> Counter[str]:
    """Count changes that are none: what a copy or the reconciler has published again."""
    found: Counter[str] = Counter()
    for _, message in read_topics([topic_name(CHANGES, settings.kafka)], settings.kafka):
        if INJECTED not in dict(message.headers):
            with suppress(InvalidEvent):
                event = decode_event(
                    message.key, message.value, message.headers, tenant=settings.mongo.tenant
                )
                if isinstance(event, DocumentChanged) and event.origin is not Origin.LIVE:
                    found[event.origin] += 1
    return found


def embeddings_twice(settings: Settings) -> int:
    """Count embeddings that were sent again for the same change: the price of at-least-once."""
    seen: Counter[tuple[bytes, bytes]] = Counter()
    name = topic_name(CLIP.name, settings.kafka)
    for _, message in read_topics([name], settings.kafka):
        headers = dict(message.headers)
        if INJECTED not in headers:
            seen[message.key or b"", headers.get("ce_clustertime", b"")] += 1
    return seen.total() - len(seen)
