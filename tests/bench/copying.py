"""Live inserts beside a copy of finished documents. `python -m tests.bench.copying`.

Insert-to-caption latency, idle and while a copy looks at every document: one that was asked for, or
one that the death of the broker, with its log, has made necessary. One insert at a time. Prints
JSON; the ratios belong to one run. Exit code 1: p95 is more than three times that of an idle stack.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bson import ObjectId

from streams.contract.default_pipeline import DEFAULT
from streams.mongo.state_index import build_state_index
from streams.settings import MongoSettings
from tests.acceptance.stack import Stack, user_environment
from tests.bench.recaption import captioned, fill, latencies, promote, small, spread
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

_MOST_RATIO = 3.0
#: Documents that the stack itself finishes; the others are copies of them.
_MADE = 1000
_PIECE = 1000


def copying(stack: Stack) -> bool:
    """Whether a copy is under way or asked for and not begun."""
    state = stack.client[MongoSettings(database=stack.info["database"]).state]
    position = state["positions"].find_one() or {}
    asked = (state["requests"].find_one({"_id": "copy"}) or {}).get("at")
    is_asked = asked is not None and asked > position["copied_at"]
    return "copy" in position or is_asked


def multiply(stack: Stack, documents: int) -> None:
    """Copy finished documents until there are so many; no change tells of the copies."""
    made = list(stack.documents.find())
    name = stack.documents.full_name
    for start in range(len(made), documents, _PIECE):
        copies = [
            {"op": "i", "ns": name, "o": {**made[number % len(made)], "_id": ObjectId()}}
            for number in range(start, min(start + _PIECE, documents))
        ]
        stack.client.admin.command("applyOps", copies)


def measure(stack: Stack, documents: int, idle: int, fault: str) -> dict[str, Any]:
    """Fill the stack, measure it idle, then during a copy."""
    promote(stack, small(), seed=0)
    build_state_index(stack.documents, DEFAULT)
    fill(stack, small(), min(documents, _MADE), minutes=30)
    multiply(stack, documents)
    wait_until(lambda: not copying(stack), doing="the end of the first copy")
    before = spread(latencies(stack, small(), lambda number: number >= idle))
    started = time.monotonic()
    if fault == "broker":
        os.kill(stack.pids()["broker"], signal.SIGKILL)
    else:
        stack.run("reconcile", "--all")
    wait_until(lambda: copying(stack), deadline_seconds=120, doing="the copy", pause_seconds=0.01)
    begun = time.monotonic()
    during = latencies(stack, small(), lambda number: number >= idle and not copying(stack))
    seconds = time.monotonic() - begun
    after = spread(during)
    finished = stack.metric("publisher", "captionstream_copied_documents_total", "finished")
    published = stack.metric("publisher", "captionstream_copied_documents_total", "published")
    return {
        "documents": captioned(stack),
        "fault": fault,
        "seconds_to_copy": round(begun - started, 1),
        "copy_seconds": round(seconds, 1),
        "copy_found_finished": finished,
        "copy_published": published,
        "idle_seconds": before,
        "during_seconds": after,
        "slowest": round(max(during), 3),
        "ratio_p50": round(after["p50"] / before["p50"], 2),
        "ratio_p95": round(after["p95"] / before["p95"], 2),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=100, help="inserts while nothing else runs")
    parser.add_argument(
        "--fault", choices=["broker", "asked"], default="broker", help="what makes the copy"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(
            Path(name) / "data",
            user_environment(
                CLIP__MODEL=str(write_tiny_clip(Path(name))),
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
            ),
        )
        try:
            results = measure(stack, arguments.documents, arguments.idle, arguments.fault)
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sys.exit(int(results["ratio_p95"] > _MOST_RATIO))


if __name__ == "__main__":
    main()
