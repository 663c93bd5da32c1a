"""The loop that keeps one stack running: servers first, then processes, then what they are owed.

It runs in the main thread, since children die with the thread that started them. It knows no topic
and no document; processes are names with a command.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

import psutil

from streams.backoff import Backoff
from streams.errors import CaptionstreamError, SettingsError
from streams.local.declared import DeclaredProcesses
from streams.local.ports import PortBook
from streams.local.probe import Prober
from streams.local.servers import Servers, insist
from streams.local.stack import SUPERVISOR, StackInfo, remove_stack, write_stack
from streams.local.worker import Worker
from streams.settings import Settings

_TICK_SECONDS: Final = 0.1
#: Without its broker a process cannot finish anything; all of it is repeated afterwards.
_BROKER_LOST_GRACE_SECONDS: Final = 5.0
#: So often a process may say that its settings are wrong before the start is given up.
_MOST_FAILED_STARTS: Final = 3
_ASK_RETRY_SECONDS: Final = 5.0


class Supervisor:
    """One stack."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        mongo_uri: str | None,
        kafka: str | None,
        out: TextIO,
    ) -> None:
        """Find programs and ports; nothing is started.

        Raises:
            SettingsError: A program is missing.
        """
        self._directory = directory
        self._out = out
        self._servers = Servers(
            settings, directory=directory, mongo_uri=mongo_uri, kafka=kafka, say=say
        )
        self._settings = self._servers.settings
        self._prober = Prober()
        self._ports = PortBook(directory / "ports.json", self._settings.local.port_range)
        self._workers: list[Worker] = []
        #: They were asked to end, and are not wanted any more.
        self._leaving: list[Worker] = []
        self._stop = threading.Event()
        self._written: StackInfo | None = None
        self._is_ready = False
        self._complaint = ""
        self._ask_copy_at: float | None = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """React to signals as long as the context lasts."""
        signums = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {signum: signal.signal(signum, self._on_signal) for signum in signums}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def run(self, command: Callable[[str], list[str]], processes: Sequence[str] | None) -> int:
        """Start, watch until a signal, stop.

        1. Servers and topics.
        2. Processes, all at once: those that are named, or those of the declared pipeline.
        3. Every tick: servers first, since processes are useless without them; then the processes,
           and those that another pipeline adds or leaves out.
        """
        remove_stack(self._directory)
        declared: DeclaredProcesses | None = None
        try:
            self._servers.start()  # 1
            self._prober.start()
            declared = DeclaredProcesses(self._servers, say=say) if processes is None else None
            names = processes if declared is None else declared.names
            self._workers = [self._start_worker(name, command) for name in names or ()]  # 2
            if declared is not None:
                declared.start()
            while not self._stop.wait(_TICK_SECONDS):  # 3
                self._tend_servers()
                if declared is not None and declared.names != names:
                    names = declared.names
                    self._change_workers(names, command)
                self._tick_workers()
                self._tend_requests()
                self._announce()
        finally:
            if declared is not None:
                declared.stop()
            self._shut_down()
        return 0

    def _start_worker(self, name: str, command: Callable[[str], list[str]]) -> Worker:
        worker = Worker(
            name,
            command(name),
            self._settings,
            port=self._ports.port(name),
            directory=self._directory,
            prober=self._prober,
            say=say,
        )
        if not self._stop.is_set():
            say(f"starting {name} ...")
            worker.start()
        return worker

    def _change_workers(self, names: Sequence[str], command: Callable[[str], list[str]]) -> None:
        """Begin with processes that are new, and end those that are not wanted any more."""
        running = {worker.name: worker for worker in self._workers}
        for name in running.keys() - set(names):
            say(f"stopping {name} ...")
            running[name].terminate()
            self._leaving.append(running[name])
        self._workers = [
            running[name] if name in running else self._start_worker(name, command)
            for name in names
        ]

    def _tick_workers(self) -> None:
        for worker in self._workers:
            worker.tick()
        self._leaving = [worker for worker in self._leaving if worker.is_alive()]

    def _tend_servers(self) -> None:
        mongod, broker = self._servers.mongod, self._servers.broker
        if mongod is not None and not mongod.is_alive():
            say("mongod died; the processes wait for it")
            self._insist(self._servers.start_mongod)
        if broker is not None and not broker.is_alive():
            self._replace_broker()

    def _replace_broker(self) -> None:
        """Begin again with an empty log.

        The processes hold positions in the log that is gone, so they end before a new one begins.
        """
        say("broker died; stopping all processes")
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.stop(min(self._settings.local.grace_seconds, _BROKER_LOST_GRACE_SECONDS))
        if not self._insist(self._servers.start_broker):
            return
        say("broker is back, topics are created; starting all processes")
        self._ask_copy_at = time.monotonic()
        self._tend_requests()
        for worker in self._workers:
            worker.start()

    def _tend_requests(self) -> None:
        if self._ask_copy_at is None or time.monotonic() < self._ask_copy_at:
            return
        try:
            self._servers.request_copy()
        except CaptionstreamError as exc:  # whatever it is, the stack runs on without the copy
            say(f"cannot ask for a copy of everything: {exc}")
            self._ask_copy_at = time.monotonic() + _ASK_RETRY_SECONDS
        else:
            say("asked for a copy of everything")
            self._ask_copy_at = None

    def _announce(self) -> None:
        """Keep the file true, and say once that all is ready.

        The file comes first: a process may wait for a command of its user.
        """
        if not self._is_ready:
            self._give_up_if_hopeless()
        info = self._describe()
        if info != self._written:
            try:
                write_stack(self._directory, info)
            except OSError as exc:  # a full disk; it is tried again at the next tick
                if self._complaint != str(exc):
                    self._complaint = str(exc)
                    say(f"cannot say who runs here: {exc}")
                return
            self._written = info
        if not self._is_ready and all(worker.is_ready() for worker in self._workers):
            self._is_ready = True
            say(f"ready; logs are in {self._directory / 'logs'}")
            print(info.announcement(), file=self._out, flush=True)

    def _give_up_if_hopeless(self) -> None:
        for worker in self._workers:
            if worker.failed_starts >= _MOST_FAILED_STARTS:
                msg = f"{worker.name} cannot start: {worker.last_line()} (log: {worker.log})"
                raise SettingsError(msg)

    def _describe(self) -> StackInfo:
        mongo, kafka = self._settings.mongo, self._settings.kafka
        pids = {w.name: w.pid for w in self._workers if w.pid is not None}
        return StackInfo(
            mongo_uri=mongo.uri.get_secret_value(),
            database=mongo.database,
            collection=mongo.collection,
            kafka=kafka.bootstrap_servers,
            metrics={worker.name: worker.metrics_url for worker in self._workers},
            pids={SUPERVISOR: os.getpid(), **self._servers.pids, **pids},
            state_database=mongo.state,
            kafka_prefix=kafka.prefix,
            started=psutil.Process().create_time(),
        )

    def _shut_down(self) -> None:
        """End the processes in the order of the pipeline, then the servers."""
        for worker in (*self._workers, *self._leaving):
            if worker.is_alive():
                say(f"stopping {worker.name} ...")
                worker.stop(self._settings.local.grace_seconds)
        self._prober.close()
        self._servers.stop()
        remove_stack(self._directory)
        say("stopped")

    def _insist(self, action: Callable[[], None]) -> bool:
        local = self._settings.local
        return insist(
            action,
            is_stopping=self._stop.is_set,
            backoff=Backoff(local.backoff_initial_seconds, local.backoff_max_seconds),
            say=say,
        )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._stop.is_set():
            self._stop.set()
            return
        for child in (*self._workers, *self._leaving, self._servers.broker, self._servers.mongod):
            if child is not None and child.is_alive():
                child.kill()
        remove_stack(self._directory)
        os._exit(128 + signum)


def say(text: str) -> None:
    """Print to stderr what happens, if somebody still listens."""
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    with suppress(OSError):  # `up 2>&1 | tee log`: Ctrl-C ends tee first
        print(f"{now} {text}", file=sys.stderr, flush=True)
