"""What is compared: the running pipeline, and a bare loop over the same images."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil
from pymongo import MongoClient
from pymongo.collection import Collection

from streams.contract.default_pipeline import DEFAULT
from streams.mongo.state_index import build_state_index, state_index
from tests.waiting import wait_until

#: Documents inserted and not yet finished: enough that no stage ever waits for input.
AHEAD = 256
#: Memory is compared from here on; before, buffers and caches are still filling.
WARM = 500
#: Most growth of a process of ours from there to the end. The servers cache, and keep the log.
FLAT = 1.1
SERVERS = ("mongod", "broker")


def bare_seconds_per_document(directory: Path) -> float:
    """Return seconds per image of the bare loop, run in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bare", str(directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


class Pipeline:
    """A running stack."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def __enter__(self) -> Self:
        self._log = (self._directory / "up.log").open("w")
        command = ["-m", "streams.cli", "up", "--data-dir", str(self._directory / "data")]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=dict(self._environment),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        self._info = json.loads(self._process.stdout.readline())
        self._client: MongoClient[dict[str, Any]] = MongoClient(self._info["mongo_uri"])
        self._documents = self._client[self._info["database"]][self._info["collection"]]
        build_state_index(self._documents, DEFAULT)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)
        self._log.close()

    @property
    def documents(self) -> Collection[dict[str, Any]]:
        """The collection that is watched."""
        return self._documents

    def measure(self, images: list[bytes], count: int) -> dict[str, Any]:
        """Insert `count` documents and wait for their projections.

        The clock runs from the end of the first warm-up batch, as in the bare loop.
        """
        self._insert(itertools.islice(itertools.cycle(images), 32))
        self._wait(32)
        warm = min(WARM, count // 2)
        memory = {}
        busy = self._processor_seconds()
        started = time.monotonic()
        inserted = 0
        stream = itertools.cycle(images)
        while inserted < count:
            self._insert(itertools.islice(stream, min(32, count - inserted)))
            inserted += min(32, count - inserted)
            self._wait(32 + inserted - AHEAD)
            if not memory and inserted >= warm:
                memory = self._memory()
        self._wait(32 + count)
        seconds = time.monotonic() - started
        after = self._memory()
        busy = {name: now - busy[name] for name, now in self._processor_seconds().items()}
        growth = {name: round(after[name] / memory[name], 3) for name in memory}
        return {
            "documents_per_second": count / seconds,
            "processor_milliseconds_per_document": {
                name: round(1000 * used / count, 2) for name, used in busy.items()
            },
            "memory": {
                name: {
                    "mib_warm": round(memory[name] / 2**20),
                    "mib_end": round(after[name] / 2**20),
                    "growth": growth[name],
                }
                for name in memory
            },
            "flat": all(ratio <= FLAT for name, ratio in growth.items() if name not in SERVERS),
        }

    def _insert(self, images: Any) -> None:
        self._documents.insert_many([{"img": image} for image in images])

    def _wait(self, count: int) -> None:
        if count > 0:
            done = {"_outputs.img.clip_projection.version": {"$gt": ""}}
            wait_until(
                lambda: self._documents.count_documents(done, hint=state_index(DEFAULT)) >= count,
                deadline_seconds=900,
                doing=f"{count} documents",
                pause_seconds=0.5,  # asking costs what is measured
            )

    def _processor_seconds(self) -> dict[str, float]:
        """Return what each process has used, with its children; those that ended count too."""
        return {
            name: sum(
                used.user + used.system + (used.children_user + used.children_system) * counts_dead
                for used in (process.cpu_times() for process in family)
            )
            for name, family, counts_dead in self._families()
        }

    def _memory(self) -> dict[str, int]:
        """Return resident bytes of each process and its children; shared pages count for each."""
        return {
            name: sum(process.memory_info().rss for process in family)
            for name, family, _ in self._families()
        }

    def _families(self) -> Iterator[tuple[str, list[psutil.Process], bool]]:
        """Yield each process with its children; all others are children of the supervisor."""
        for name, pid in self._info["pids"].items():
            process, is_alone = psutil.Process(pid), name == "supervisor"
            children = [] if is_alone else process.children(recursive=True)
            yield name, [process, *children], not is_alone
