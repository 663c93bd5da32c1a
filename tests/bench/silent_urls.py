"""`python -m tests.bench.silent_urls`: images that are there, beside URLs whose servers are silent.

Measures from the insert of a document with bytes to its projection, idle and beside a thousand
documents with URLs of silent hosts and a producer of more, and prints JSON. Exit code 1: the 95th
percentile is more than the goal times that of the idle pipeline.
"""

import argparse
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymongo.collection import Collection

from tests.bench.photographs import SHARED, photographs
from tests.bench.pipeline import Pipeline
from tests.waiting import wait_until

GOAL = 2.0
Documents = Collection[dict[str, Any]]


def main() -> None:
    """Measure idle, then beside silent URLs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--documents", type=int, default=100, help="documents of each measurement")
    parser.add_argument("--hosts", type=int, default=100, help="silent hosts")
    parser.add_argument("--burst", type=int, default=1000, help="silent URLs at the beginning")
    parser.add_argument("--per-second", type=float, default=5.0, help="silent URLs after that")
    arguments = parser.parse_args()
    images = photographs(arguments.images).images
    hosts = [f"127.0.1.{number}" for number in range(1, arguments.hosts + 1)]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CAPTIONSTREAM_")},
        "CAPTIONSTREAM_CLIP__MODEL": "scenes",
        "CAPTIONSTREAM_CLIP__PRETRAINED": "bundled",
        "CAPTIONSTREAM_FETCH__ALLOW_HOSTS": ",".join(hosts),
    }
    with (
        tempfile.TemporaryDirectory() as name,
        silent_servers(hosts) as port,
        Pipeline(Path(name), environment) as running,
    ):
        urls = [f"http://{host}:{port}/{{}}.jpg" for host in hosts]
        documents = running.documents
        latencies(documents, images, 20)  # warm
        idle = latencies(documents, images, arguments.documents)
        with silent_producer(documents, urls, arguments.burst, 1 / arguments.per_second):
            beside = latencies(documents, images, arguments.documents)
        told = documents.count_documents({"_outputs.img.clip.error.type": "FetchFailed"})
    ratio = percentile(beside, 95) / percentile(idle, 95)
    results = {
        "idle_seconds": summary(idle),
        "beside_silent_urls_seconds": summary(beside),
        "silent_urls_given_up_meanwhile": told,
        "ratio_of_p95": round(ratio, 2),
        "ratio_goal": GOAL,
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sys.exit(int(ratio > GOAL))


def latencies(documents: Documents, images: list[bytes], count: int) -> list[float]:
    """Return seconds from the insert to the projection, one document after the other."""
    found = []
    for number in range(count):
        started = time.monotonic()
        made = documents.insert_one({"img": images[number % len(images)]}).inserted_id
        done = {"_id": made, "_outputs.img.clip_projection.version": {"$gt": ""}}
        wait_until(
            lambda query=done: documents.find_one(query, {"_id": 1}),  # type: ignore[misc]
            doing="a projection",
            pause_seconds=0.005,
        )
        found.append(time.monotonic() - started)
    return found


@contextmanager
def silent_servers(hosts: list[str]) -> Iterator[int]:
    """Take connections at every host, as a kernel does by itself, and stay silent."""
    with ExitStack() as servers:
        port = 0
        for host in hosts:
            server = servers.enter_context(socket.create_server((host, port), backlog=4096))
            port = server.getsockname()[1]
        yield port


@contextmanager
def silent_producer(
    documents: Documents, urls: list[str], burst: int, pause: float
) -> Iterator[None]:
    """Insert documents whose images are behind silent URLs: many at first, then some for ever."""
    numbers = random.Random(0)  # noqa: S311 - no secret
    over = threading.Event()

    def one(number: int) -> dict[str, Any]:
        return {"img": {"url": numbers.choice(urls).format(number)}}

    def produce() -> None:
        number = burst
        while not over.wait(pause):
            documents.insert_one(one(number))
            number += 1

    documents.insert_many([one(number) for number in range(burst)])
    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def percentile(values: list[float], which: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=100)[which - 1]


def summary(values: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile, rounded."""
    return {"p50": round(percentile(values, 50), 3), "p95": round(percentile(values, 95), 3)}


if __name__ == "__main__":
    main()
