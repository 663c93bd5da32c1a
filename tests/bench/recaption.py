"""Live inserts beside a re-caption of everything. `python -m tests.bench.recaption`.

Insert-to-caption latency, idle and while a promotion has every document captioned again; one
insert at a time, as a person would feel it. Prints JSON; the ratios belong to one run. Exit code 1:
CLIP was called for what was only captioned again.
"""

import argparse
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from streams.state_index import STATE_INDEX, build_state_index
from tests.acceptance.stack import Stack, user_environment
from tests.captioner import publish_tiny_captioner
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

_VERSION = "_outputs._base.conditional_lm.version"
_BATCH = 500


def picture(number: int) -> bytes:
    """Return a small picture of a colour of its own."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256 % 256, 90)).save(data, "PNG")
    return data.getvalue()


def fill(stack: Stack, count: int) -> None:
    """Insert so many documents and wait until all are captioned."""
    for start in range(0, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        stack.documents.insert_many([{"img": picture(number)} for number in numbers])
    wait_until(
        lambda: captioned(stack) >= count,
        deadline_seconds=1800,
        doing=f"{count} captions",
        pause_seconds=1.0,
    )


def captioned(stack: Stack, version: str | None = None) -> int:
    """Count documents with a caption, or with one of a version."""
    wanted = {"$gt": ""} if version is None else version
    return int(stack.documents.count_documents({_VERSION: wanted}, hint=STATE_INDEX))


def latencies(stack: Stack, is_over: Callable[[int], bool]) -> list[float]:
    """Insert one document after the other; return seconds from each insert to its caption."""
    seconds: list[float] = []
    for number in itertools.count():
        if is_over(number):
            return seconds
        started = time.perf_counter()
        document_id = stack.documents.insert_one({"img": picture(number + 99_999)}).inserted_id
        found = {"_id": document_id, _VERSION: {"$gt": ""}}
        wait_until(
            lambda found=found: stack.documents.find_one(found, {"_id": 1}),
            deadline_seconds=300,
            doing="the caption of a live insert",
            pause_seconds=0.005,
        )
        seconds.append(time.perf_counter() - started)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Return count, median and 95th percentile."""
    cuts = statistics.quantiles(seconds, n=20)
    return {"inserts": len(seconds), "p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


def measure(stack: Stack, documents: int, idle: int) -> dict[str, Any]:
    """Fill the stack, measure it idle, then during a re-caption."""
    publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
    build_state_index(stack.documents)
    fill(stack, documents)
    before = summary(latencies(stack, lambda number: number >= idle))
    calls = stack.metric("featurize", "captionstream_model_inputs_total")
    version = publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"], seed=1)
    started = time.monotonic()
    wait_until(lambda: captioned(stack, version), deadline_seconds=120, doing="the first caption")
    first = time.monotonic() - started
    during = latencies(stack, lambda number: captioned(stack, version) >= documents + idle + number)
    seconds = time.monotonic() - started
    encoded = stack.metric("featurize", "captionstream_model_inputs_total") - calls
    after = summary(during)
    return {
        "documents": documents,
        "recaption_seconds": round(seconds, 1),
        "seconds_to_first": round(first, 1),
        "recaptions_per_second": round(documents / seconds, 1),
        "clip_calls_for_recaption": encoded - len(during),
        "idle_seconds": before,
        "during_seconds": after,
        "ratio_p50": round(after["p50"] / before["p50"], 2),
        "ratio_p95": round(after["p95"] / before["p95"], 2),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=100, help="inserts while nothing else runs")
    parser.add_argument("--chunk", type=int, default=None, help="reconciler's chunk size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        chosen = {} if arguments.chunk is None else {"RECONCILER__CHUNK_SIZE": str(arguments.chunk)}
        stack = Stack(
            Path(name) / "data",
            user_environment(
                CLIP__MODEL=str(write_tiny_clip(Path(name))),
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
                **chosen,
            ),
        )
        try:
            results = measure(stack, arguments.documents, arguments.idle)
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sys.exit(int(results["clip_calls_for_recaption"] > 0))


if __name__ == "__main__":
    main()
