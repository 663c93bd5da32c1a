"""A soak: load, random kills, and at the end the oracle. `python -m tests.faults.soak --minutes 5`.

Prints a report as JSON: kills, faults, documents, how many are wrong, and the longest stall.
"""

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image
from pymongo.errors import PyMongoError

from streams.mongo import connect, state_database
from streams.registry import Registry
from streams.settings import ClipSettings, MongoSettings
from tests.acceptance.stack import Stack, user_environment
from tests.captioner import publish_tiny_captioner
from tests.faults.oracle import Oracle
from tests.tiny import write_tiny_clip

PROCESSES = ("publisher", "featurize", "project", "caption", "sink")
SERVERS = ("mongod", "broker")


def picture(generator: random.Random) -> bytes:
    """Return a small picture of one random colour."""
    data = io.BytesIO()
    colour = tuple(generator.randrange(256) for _ in range(3))
    Image.new("RGB", (80, 60), colour).save(data, "PNG")
    return data.getvalue()


class Load(threading.Thread):
    """Inserts, updates, replaces and deletes until it is told to stop."""

    def __init__(self, documents: Any, seed: int) -> None:
        super().__init__(daemon=True)
        self._documents = documents
        self._random = random.Random(seed)  # noqa: S311 - pictures, no secret
        self._ids: list[int] = []
        self.is_done = threading.Event()
        self.changes = 0

    def run(self) -> None:
        """One change about every 30 ms; a change that MongoDB refuses is not counted."""
        number = 0
        while not self.is_done.wait(0.03):
            number += 1
            try:
                self._change(number)
            except PyMongoError:
                continue  # it may have happened or not; the oracle looks at what is there
            self.changes += 1

    def _change(self, number: int) -> None:
        kind = self._random.random()
        if kind < 0.5 or len(self._ids) < 20:
            self._ids.append(number)
            self._documents.insert_one({"_id": number, "img": picture(self._random)})
            return
        chosen = self._random.choice(self._ids)
        if kind < 0.75:
            new = {"$set": {"img": picture(self._random)}}
            self._documents.update_one({"_id": chosen}, new)
        elif kind < 0.9:
            self._documents.replace_one({"_id": chosen}, {"img": picture(self._random)})
        else:
            self._ids.remove(chosen)
            self._documents.delete_one({"_id": chosen})


def strike(stack: Stack, generator: random.Random) -> str:
    """Do harm to one process; return what was done."""
    names = [*PROCESSES * 4, *SERVERS]
    name = generator.choice(names)
    how = generator.choice(["KILL", "KILL", "TERM", "STOP"]) if name in PROCESSES else "KILL"
    pid = stack.pids().get(name)
    if pid is None:
        return f"{name} was not running"
    try:
        os.kill(pid, getattr(signal, f"SIG{how}"))
        if how == "STOP":
            threading.Timer(8.0, resume, (pid,)).start()
    except ProcessLookupError:
        return f"{name} was gone already"
    return f"{how} {name}"


def resume(pid: int) -> None:
    """Continue a stopped process, if it still exists."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def main() -> None:
    """Run the soak and print the report; exit code 1 if a document is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311 - which process dies, no secret
    with tempfile.TemporaryDirectory() as name:
        clip = ClipSettings(model=str(write_tiny_clip(Path(name))), pretrained="random")
        stack = Stack(
            Path(name) / "data",
            user_environment(
                CLIP__MODEL=clip.model,
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
                KAFKA__SESSION_TIMEOUT_SECONDS="6",
                RECONCILER__INTERVAL_SECONDS="5",
                RECONCILER__GRACE_SECONDS="10",
            ),
        )
        try:
            report = soak(stack, clip, generator, arguments.minutes)
        finally:
            stack.stop()
    report["seed"] = arguments.seed
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if report["wrong"] else 0)


def soak(
    stack: Stack, clip: ClipSettings, generator: random.Random, minutes: float
) -> dict[str, Any]:
    """Harm a loaded stack for a while, let it recover, and ask the oracle."""
    publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
    load = Load(stack.documents, generator.randrange(2**30))
    load.start()
    strikes: dict[str, int] = {}
    pause = threading.Event()
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        done = strike(stack, generator)
        strikes[done] = strikes.get(done, 0) + 1
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {done}\n")
        pause.wait(generator.uniform(1, 12))
    load.is_done.set()
    load.join()
    recovering = time.monotonic()
    stack.run("wait", "--timeout", "300", code=None)
    recovered = time.monotonic() - recovering
    settings = MongoSettings(uri=stack.info["mongo_uri"], database=stack.info["database"])
    with connect(settings) as client:
        oracle = Oracle(Registry(state_database(client, settings)), clip)
        wrong = list(oracle.problems(stack.documents))
    return {
        "minutes": minutes,
        "changes": load.changes,
        "documents": stack.documents.count_documents({}),
        "strikes": dict(sorted(strikes.items())),
        "wrong": len(wrong),
        "examples": wrong[:10],
        "seconds_to_recover": round(recovered, 1),
        "status": stack.status(),
    }


if __name__ == "__main__":
    main()
