import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from streams.contract.default_pipeline import DEFAULT
from streams.errors import SettingsError
from streams.kafka.topics import read_topic_states
from streams.local.stack import StackInfo, read_stack, settings_for
from streams.settings import Settings
from tests.waiting import DEADLINE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
LOCAL = {
    "backoff_initial_seconds": 0.1,
    "backoff_max_seconds": 0.5,
    # A process that waits for a processor is neither unhealthy nor stubborn.
    "unhealthy_seconds": 60.0,
    "grace_seconds": 30.0,
}


class Stack:
    """A supervisor in a process of its own, with two tiny workers."""

    def __init__(self, directory: Path, settings: Settings, *, is_embedded: bool) -> None:
        self.directory = directory / "stack"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        mongo, kafka = settings.mongo, settings.kafka
        self.arguments: dict[str, Any] = {
            "data_dir": str(self.directory),
            "mongo_uri": None if is_embedded else mongo.uri.get_secret_value(),
            "kafka": None if is_embedded else kafka.bootstrap_servers,
            "settings": {
                "mongo": {"database": mongo.database},
                "kafka": {"prefix": kafka.prefix, "partitions": 2},
                "local": LOCAL,
            },
        }
        self.out = directory / "out"
        self.err = directory / "err"
        self.process: subprocess.Popen[bytes] | None = None

    def set_local(self, **settings: float) -> None:
        self.arguments["settings"]["local"] = LOCAL | settings

    def start(self, err: int | None = None) -> None:
        with self.out.open("wb") as out, self.err.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.tiny_stack", json.dumps(self.arguments)],
                cwd=ROOT,
                stdout=out,
                stderr=file if err is None else err,
            )

    def start_ready(self) -> StackInfo:
        self.start()
        wait_until(self.is_ready, doing="starting the stack")
        return self.info()

    def is_ready(self) -> bool:
        assert self.exit_code() is None, self.err.read_text()
        return self.out.read_text().endswith("\n")

    def exit_code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def info(self) -> StackInfo:
        return read_stack(self.directory)

    def pid(self, name: str) -> int:
        return self.info().pids[name]

    def events(self) -> list[str]:
        return (self.directory / "events.log").read_text().splitlines()

    def tell(self, order: str) -> None:
        (self.directory / order).touch()

    def untell(self, order: str) -> None:
        (self.directory / order).unlink()

    def send(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait_for_end(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def wait_for_new_pid(self, name: str, old: int) -> int:
        wait_until(
            lambda: self.pid(name) != old and psutil.pid_exists(self.pid(name)),
            doing=f"starting {name} again",
        )
        return self.pid(name)

    def destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


Make = Callable[..., Stack]


@pytest.fixture
def make(tmp_path: Path, settings: Settings) -> Iterator[Make]:
    """Make stacks; all are ended afterwards. They use the servers of the tests unless told."""
    made: list[Stack] = []

    def make_one(name: str = "one", *, is_embedded: bool = False) -> Stack:
        made.append(Stack(tmp_path / name, settings, is_embedded=is_embedded))
        return made[-1]

    yield make_one
    for stack in made:
        stack.destroy()


@pytest.fixture
def stack(make: Make) -> Stack:
    """One stack that was not started."""
    return make()


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_one_line_of_json_says_that_all_is_ready(stack: Stack) -> None:
    info = stack.start_ready()
    line = json.loads(stack.out.read_text())
    assert line == {
        "mongo_uri": stack.arguments["mongo_uri"],
        "database": stack.settings.mongo.database,
        "collection": "documents",
        "kafka": stack.arguments["kafka"],
        "metrics": dict(info.metrics),
        "pids": dict(info.pids),
    }
    assert set(line["pids"]) == {"supervisor", "first", "second"}
    assert set(line["metrics"]) == {"first", "second"}
    assert read_topic_states(stack.settings.kafka, DEFAULT).missing == []


def test_nothing_is_announced_before_every_process_is_ready(stack: Stack) -> None:
    """Commands find the stack before: a process may wait for one, such as a promotion."""
    stack.tell("second.unready")
    stack.start()
    log = stack.directory / "events.log"
    wait_until(lambda: log.exists() and len(stack.events()) == 2, doing="starting both")
    wait_until((stack.directory / "stack.json").exists, doing="the stack to be found")
    assert stack.info().pids.keys() == {"supervisor", "first", "second"}
    assert stack.out.read_text() == ""
    stack.untell("second.unready")
    wait_until(stack.is_ready, doing="becoming ready")


def test_other_commands_get_the_settings_of_a_running_stack(stack: Stack) -> None:
    found = settings_for(stack.start_ready(), Settings())
    assert found.mongo.uri == stack.settings.mongo.uri
    assert found.mongo.database == stack.settings.mongo.database
    assert found.mongo.state == stack.settings.mongo.state
    assert found.kafka.bootstrap_servers == stack.settings.kafka.bootstrap_servers
    assert found.kafka.prefix == stack.settings.kafka.prefix


def test_a_killed_process_is_started_again_with_the_same_address(stack: Stack) -> None:
    info = stack.start_ready()
    os.kill(info.pids["second"], signal.SIGKILL)
    stack.wait_for_new_pid("second", info.pids["second"])
    now = stack.info()
    assert now.metrics == info.metrics
    assert now.pids["first"] == info.pids["first"]
    assert "second ended with code -9" in stack.err.read_text()


def test_the_pause_grows_when_a_process_dies_again_and_again(stack: Stack) -> None:
    info = stack.start_ready()
    pid = info.pids["first"]
    for _ in range(4):
        os.kill(pid, signal.SIGKILL)
        pid = stack.wait_for_new_pid("first", pid)
    pauses = [
        line.split(" starts again in ")[1].split(" s;")[0]
        for line in stack.err.read_text().splitlines()
        if "first ended" in line
    ]
    assert pauses == ["0.1", "0.2", "0.4", "0.5"]


def test_an_unhealthy_process_is_replaced_even_if_it_ignores_sigterm(stack: Stack) -> None:
    stack.set_local(unhealthy_seconds=5.0, grace_seconds=2.0)
    info = stack.start_ready()
    stack.tell("first.stubborn")
    stack.tell("first.sick")
    wait_until(lambda: is_gone(info.pids["first"]), doing="killing the sick process")
    stack.untell("first.sick")
    stack.wait_for_new_pid("first", info.pids["first"])
    assert "first is not healthy" in stack.err.read_text()
    assert stack.pid("second") == info.pids["second"]


def test_a_process_that_refuses_its_settings_ends_the_start_with_its_reason(stack: Stack) -> None:
    stack.tell("second.refuse")
    stack.start()
    assert stack.wait_for_end() == 2
    last = stack.err.read_text().splitlines()[-1]
    assert "second cannot start: captionstream: second refuses its settings" in last
    assert str(stack.directory / "logs" / "second.log") in last


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_the_order_of_the_pipeline(
    make: Make, signum: signal.Signals
) -> None:
    """Fails with the processes in another order in `_shut_down`."""
    stack = make(is_embedded=True)
    info = stack.start_ready()
    assert set(info.pids) == {"supervisor", "mongod", "broker", "first", "second"}
    stack.send(signum)
    assert stack.wait_for_end() == 0
    assert [name for name, pid in info.pids.items() if not is_gone(pid)] == []
    assert stack.events()[-2:] == ["first ends", "second ends"]
    stops = [line.split()[2] for line in stack.err.read_text().splitlines() if "stopping" in line]
    assert stops == ["first", "second", "broker", "mongod"]
    with pytest.raises(SettingsError, match="no stack is ready"):
        stack.info()


def test_everything_ends_in_order_when_nobody_listens_any_more(stack: Stack) -> None:
    """`up 2>&1 | tee log` and Ctrl-C: tee ends first. Fails without `suppress` in `say`."""
    listener, err = os.pipe()
    stack.start(err)
    os.close(err)
    wait_until(stack.is_ready, doing="starting the stack")
    os.close(listener)
    stack.send(signal.SIGINT)
    assert stack.wait_for_end() == 0
    assert stack.events()[-2:] == ["first ends", "second ends"]


def test_stack_goes_on_when_its_file_cannot_be_written(stack: Stack) -> None:
    """As on a full disk. Fails without the `except` in `_announce`."""
    old = stack.start_ready().pids["first"]
    obstacle = stack.directory / "stack.json.new"
    obstacle.mkdir()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: "cannot say who runs here" in stack.err.read_text(), doing="the complaint")
    assert stack.err.read_text().count("cannot say who runs here") == 1
    obstacle.rmdir()
    stack.wait_for_new_pid("first", old)


def test_stack_goes_on_when_a_process_cannot_be_started(stack: Stack) -> None:
    """As without memory or disk. Fails without `except OSError` in `Worker.start`."""
    info = stack.start_ready()
    log = obstructed_log(stack, "first")
    os.kill(info.pids["first"], signal.SIGKILL)
    complaint = "first cannot be started: [Errno 21]"
    wait_until(lambda: stack.err.read_text().count(complaint) > 2, doing="the complaints")
    log.rmdir()
    stack.wait_for_new_pid("first", info.pids["first"])
    assert stack.pid("second") == info.pids["second"]
    said = [line for line in stack.err.read_text().splitlines() if complaint in line]
    assert [line.split()[-2] for line in said[:3]] == ["0.2", "0.4", "0.5"]


def test_a_second_signal_ends_everything_at_once(stack: Stack) -> None:
    stack.set_local(grace_seconds=1000.0)
    stack.tell("first.stubborn")
    info = stack.start_ready()
    stack.send(signal.SIGTERM)
    wait_until(lambda: "stopping first" in stack.err.read_text(), doing="stopping")
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 128 + signal.SIGTERM
    wait_until(lambda: all(map(is_gone, info.pids.values())), doing="ending all processes")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_nothing_outlives_a_supervisor_that_is_killed(make: Make) -> None:
    """Fails without `prctl` in `_die_with`."""
    stack = make(is_embedded=True)
    info = stack.start_ready()
    stack.send(signal.SIGKILL)
    stack.wait_for_end()
    wait_until(lambda: all(map(is_gone, info.pids.values())), doing="ending all processes")
    with pytest.raises(SettingsError, match=r"ended without a farewell.*captionstream up"):
        stack.info()
    again = stack.start_ready()
    assert again.mongo_uri == info.mongo_uri


def test_a_second_stack_in_the_same_directory_is_refused(make: Make) -> None:
    one = make()
    info = one.start_ready()
    other = make("other")
    other.arguments["data_dir"] = str(one.directory)
    other.start()
    assert other.wait_for_end() == 2
    assert f"process {info.pids['supervisor']}" in other.err.read_text()
    assert "another --data-dir" in other.err.read_text()
    assert one.info() == info


def test_two_stacks_run_side_by_side(make: Make) -> None:
    one, two = make("one", is_embedded=True), make("two", is_embedded=True)
    one.start()
    two.start()
    for stack in (one, two):
        wait_until(stack.is_ready, doing="starting the stack")
    first, second = one.info(), two.info()
    assert first.mongo_uri != second.mongo_uri
    assert first.kafka != second.kafka
    assert not set(first.metrics.values()) & set(second.metrics.values())


def test_a_lost_broker_is_replaced_after_the_processes_ended(make: Make) -> None:
    """Fails without the stop of the workers in `_replace_broker`."""
    stack = make(is_embedded=True)
    stack.set_local(grace_seconds=2.0)
    stack.tell("first.stubborn")
    info = stack.start_ready()
    begun = [f"{name} starts with {info.kafka}" for name in ("first", "second")]
    assert sorted(stack.events()) == begun
    os.kill(info.pids["broker"], signal.SIGKILL)
    stack.wait_for_new_pid("second", info.pids["second"])
    wait_until(lambda: len(stack.events()) == 5, doing="starting the processes again")

    events = stack.events()
    assert events[2] == "second ends"
    assert sorted(events[3:]) == begun
    said = [line.split(" ", 1)[1] for line in stack.err.read_text().splitlines()]
    order = [
        said.index("broker died; stopping all processes"),
        said.index("first did not end within 2 s and was killed"),
        said.index("broker is back, topics are created; starting all processes"),
    ]
    assert order == sorted(order)
    assert is_gone(info.pids["first"])
    assert stack.info().kafka == info.kafka
    assert stack.pid("broker") != info.pids["broker"]
    assert (
        read_topic_states(settings_for(stack.info(), stack.settings).kafka, DEFAULT).missing == []
    )
    wait_until(lambda: read_request(stack) is not None, doing="the request of a copy")


def test_servers_stay_when_no_process_can_be_started_after_the_broker(make: Make) -> None:
    """Fails without `except OSError` in `Worker.start`."""
    stack = make(is_embedded=True)
    info = stack.start_ready()
    log = obstructed_log(stack, "first")
    os.kill(info.pids["broker"], signal.SIGKILL)
    wait_until(lambda: "first cannot be started" in stack.err.read_text(), doing="the complaint")
    log.rmdir()
    stack.wait_for_new_pid("first", info.pids["first"])
    assert stack.pid("mongod") == info.pids["mongod"]


def test_a_lost_mongod_comes_back_while_the_processes_stay(make: Make) -> None:
    """Fails without `start_mongod` in `_tend_servers`.

    What a majority acknowledged stands in mongod's journal; no line of ours does that, but that all
    our writes ask for a majority.
    """
    stack = make(is_embedded=True)
    info = stack.start_ready()
    with MongoClient[dict[str, Any]](info.mongo_uri, w="majority") as client:
        client[info.database].things.insert_one({"_id": "kept"})
        os.kill(info.pids["mongod"], signal.SIGKILL)
        stack.wait_for_new_pid("mongod", info.pids["mongod"])
        assert client[info.database].things.find_one() == {"_id": "kept"}
    assert stack.info().mongo_uri == info.mongo_uri
    assert stack.pid("first") == info.pids["first"]


def test_only_a_later_start_asks_for_a_reconcile(make: Make) -> None:
    stack = make(is_embedded=True)
    info = stack.start_ready()
    assert read_request(stack) is None
    with MongoClient[dict[str, Any]](info.mongo_uri, w="majority") as client:
        client[info.state_database].positions.insert_one({"_id": "any"})
    stack.send(signal.SIGTERM)
    assert stack.wait_for_end() == 0
    stack.start_ready()
    wait_until(lambda: read_request(stack) is not None, doing="the request of a copy")


def test_everything_is_written_below_the_data_directory(make: Make) -> None:
    stack = make(is_embedded=True)
    info = stack.start_ready()
    for name, pid in info.pids.items():
        if name == "supervisor":
            continue
        process = psutil.Process(pid)
        outside = [
            file.path
            for file in process.open_files()
            if file.mode != "r" and not Path(file.path).is_relative_to(stack.directory)
        ]
        assert outside == []
        assert Path(process.cwd()).is_relative_to(stack.directory)


def obstructed_log(stack: Stack, name: str) -> Path:
    """Put a directory where the log of a process is opened when it starts."""
    log = stack.directory / "logs" / f"{name}.log"
    log.unlink()
    log.mkdir()
    return log


def read_request(stack: Stack) -> dict[str, Any] | None:
    info = stack.info()
    with MongoClient[dict[str, Any]](info.mongo_uri) as client:
        return client[info.state_database].requests.find_one({"_id": "copy"})
