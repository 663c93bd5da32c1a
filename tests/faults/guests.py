"""Further processes that join the stack's own, and leave or die."""

import io
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from PIL import Image
from pymongo.errors import PyMongoError

from streams.mongo.client import state_database
from streams.settings import child_environment
from tests.faults.target import Target
from tests.waiting import wait_until

_LOADING_SECONDS = 5.0
#: Beside several others, and while servers are away, a process may load for long.
_READY_SECONDS = 90.0
_DEADLY_SECONDS = 60.0


def add_guest(target: Target) -> str:
    """One more process of a stage joins, works for a while, and leaves without a word or with."""
    name = target.random.choice(target.processes)
    guest = _start(target, "streams.cli", "run", name)
    how = target.random.choice([signal.SIGKILL, signal.SIGTERM])
    declared = target.declared

    def leave() -> None:
        has_begun = _report(target, guest) is not None  # before that it has no handler of signals
        guest.send_signal(how)
        code = guest.wait()
        good = {0} if how == signal.SIGTERM else {-how}
        if target.declared != declared:
            good.add(0)  # it had something else to do in another pipeline
        if code not in (good if has_begun else good | {-how}):
            target.problems.append(f"a second {name} ended with code {code} after {how.name}")

    target.later(target.pause_seconds + _LOADING_SECONDS, leave)
    return f"a second {name} joins, leaves by {how.name}"


def add_deadly_guest(target: Target) -> str:
    """A process of `clip` joins that dies of white images, which come in while it is there.

    They come in once it is ready. The stack's own survives them, so none of them may be blamed: one
    death is no proof. Those of an earlier strike go first, so that none meets a second guest.
    """
    guest = _start(target, "tests.deadly", "itself", "crashes")
    strike = next(target.seeds)
    documents = target.stack.documents

    def is_ready() -> bool:
        report = _report(target, guest)
        return report is not None and report["is_ready"]

    def feed() -> None:
        with suppress(PyMongoError):
            documents.delete_many({"white": {"$exists": True}})
        with suppress(AssertionError):
            wait_until(lambda: guest.poll() is not None or is_ready(), _READY_SECONDS)
        end = time.monotonic() + _DEADLY_SECONDS
        number = 0
        while time.monotonic() < end and guest.poll() is None:
            number += 1
            with suppress(PyMongoError):
                row = {"_id": f"white {strike}.{number}", "img": white(), "white": True}
                documents.insert_one(row)
            with suppress(subprocess.TimeoutExpired):
                guest.wait(0.5)
        target.deadly += guest.poll() == -signal.SIGABRT
        guest.kill()
        guest.wait()

    target.later(0, feed)
    return "a process of clip joins that dies of white images"


def _report(target: Target, guest: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Return what the guest says of itself; None if it said nothing yet, or nobody can tell."""
    reports = state_database(target.stack.client, target.settings.mongo)["processes"]
    try:
        return reports.find_one({"_id": f"{socket.gethostname()}:{guest.pid}"})
    except PyMongoError:
        return None


def white() -> bytes:
    """Return a white picture."""
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (255, 255, 255)).save(data, "PNG")
    return data.getvalue()


def _start(target: Target, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=child_environment(target.settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
