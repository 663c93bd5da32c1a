"""Live inserts beside a re-caption of everything. `python -m tests.bench.recaption`.

Insert-to-caption latency, idle and while a promotion has every document captioned again; one
insert at a time, as a person would feel it, beside what the metric of `sink` says of the same
inserts. Prints JSON; the ratios belong to one run. Exit code 1: CLIP was called for what was only
captioned again.

Small pictures, a tiny CLIP and a tiny captioner, so that the pipeline itself is measured. With
`--photographs` photographs of about 150 kB, RN50 (1024 numbers for each) and a captioner of the
usual size, as many as are captioned in `--minutes`.
"""

import argparse
import io
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from streams.contract.default_pipeline import DEFAULT
from streams.contract.manifest import Bundle
from streams.models.conditional_lm import ConditionalLM
from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.mongo.client import connect, state_database
from streams.mongo.state_index import build_state_index, state_index
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from tests.acceptance.stack import Stack, user_environment
from tests.bench.photographs import SHARED, photographs
from tests.bundles import captioner_bundle
from tests.captioner import tiny_captioner
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

_VERSION = "_outputs._base.conditional_lm.version"
_METRIC = "captionstream_end_to_end_seconds"
_BATCH = 100
_RN50_NUMBERS = 1024
_WORDS = 6000
_HIDDEN = 512


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is measured with.

    Attributes:
        image: Returns the picture of a number.
        captioner: Returns an untrained captioner for a seed and a CLIP version.
        report: What it is, for the JSON.
    """

    image: Callable[[int], bytes]
    captioner: Callable[[int, str], Bundle]
    report: dict[str, object]


def small() -> Material:
    """Pictures and models that cost next to nothing."""
    return Material(
        image=picture,
        captioner=lambda seed, clip: tiny_captioner(seed=seed, clip_version=clip),
        report={"images": "64 x 64", "clip": "tiny", "captioner": "tiny"},
    )


def real(directory: Path) -> Material:
    """Photographs and models of the usual size."""
    photos = photographs(directory)
    return Material(
        image=lambda number: photos.images[number % len(photos.images)],
        captioner=large_captioner,
        report={
            "images": photos.report,
            "clip": f"RN50, {_RN50_NUMBERS} numbers",
            "captioner": f"{_WORDS} words, {_HIDDEN} hidden",
        },
    )


def large_captioner(seed: int, clip_version: str) -> Bundle:
    """Return a captioner whose sentences mean nothing and cost what those of a fitted one do."""
    generator = random.Random(seed)  # noqa: S311 - words, no secret
    words = {"".join(generator.choices("abcdefghij", k=6)) for _ in range(_WORDS)}
    torch.manual_seed(seed)
    vocabulary = Vocabulary([*sorted(words), UNKNOWN])
    model = ConditionalLM(vocabulary, n_condition=_RN50_NUMBERS, n_hidden=_HIDDEN, max_length=15)
    return captioner_bundle(model.eval(), clip_version=clip_version, note="for a bench")


def promote(stack: Stack, material: Material, seed: int) -> str:
    """Let another captioner serve; return its version."""
    settings = MongoSettings(uri=stack.info["mongo_uri"], database=stack.info["database"])
    with connect(settings) as client:
        registry = Registry(state_database(client, settings))
        clip = wait_until(lambda: registry.pointer(CLIP.name), doing="CLIP").version
        version = registry.publish(material.captioner(seed, clip))
        registry.promote(CONDITIONAL_LM.name, version, reason="bench")
    return version


def picture(number: int) -> bytes:
    """Return a small picture of a colour of its own."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256 % 256, 90)).save(data, "PNG")
    return data.getvalue()


def fill(stack: Stack, material: Material, most: int, minutes: float) -> int:
    """Insert documents, until there are so many or the time is over; wait for all captions."""
    end = time.monotonic() + 60 * minutes
    count = 0
    while count < most and time.monotonic() < end:
        numbers = range(count, min(count + _BATCH, most))
        stack.documents.insert_many([{"img": material.image(number)} for number in numbers])
        count = numbers.stop
        wait_for_captions(stack, count - 2 * _BATCH)  # so many ahead that no stage is idle
    wait_for_captions(stack, count)
    return count


def wait_for_captions(stack: Stack, count: int) -> None:
    """Wait until so many documents are captioned."""
    wait_until(
        lambda: captioned(stack) >= count,
        deadline_seconds=1800,
        doing=f"{count} captions",
        pause_seconds=1.0,
    )


def captioned(stack: Stack, version: str | None = None) -> int:
    """Count documents with a caption, or with one of a version."""
    wanted = {"$gt": ""} if version is None else version
    return int(stack.documents.count_documents({_VERSION: wanted}, hint=state_index(DEFAULT)))


def latencies(stack: Stack, material: Material, is_over: Callable[[int], bool]) -> list[float]:
    """Insert one document after the other; return seconds from each insert to its caption."""
    seconds: list[float] = []
    for number in itertools.count():
        if is_over(number):
            return seconds
        started = time.perf_counter()
        document_id = stack.documents.insert_one(
            {"img": material.image(number + 99_999)}
        ).inserted_id
        found = {"_id": document_id, _VERSION: {"$gt": ""}}
        wait_until(
            lambda found=found: stack.documents.find_one(found, {"_id": 1}),
            deadline_seconds=300,
            doing="the caption of a live insert",
            pause_seconds=0.005,
        )
        seconds.append(time.perf_counter() - started)
    return seconds


def observed(stack: Stack) -> Counter[str]:
    """Return what the metric has of captions: sum, count, and cumulated count by upper bound."""
    with urllib.request.urlopen(stack.info["metrics"]["sink"]) as reply:  # noqa: S310 - our own
        page = reply.read().decode()
    return Counter(
        {
            sample.labels.get("le", sample.name.removeprefix(f"{_METRIC}_")): sample.value
            for family in text_string_to_metric_families(page)
            if family.name == _METRIC
            for sample in family.samples
            if sample.labels.get("model") == "conditional_lm"
        }
    )


def quantile(found: Counter[str], share: float) -> float:
    """Return a quantile as Prometheus does: on a line between the bounds of its bucket."""
    lower = below = 0.0
    for bound, upto in sorted((float(n), c) for n, c in found.items() if n[0].isdigit()):
        if upto >= share * found["count"]:
            return lower + (bound - lower) * (share * found["count"] - below) / (upto - below)
        lower, below = bound, upto
    return lower


def spread(seconds: list[float]) -> dict[str, float]:
    """Return count, mean, median and 95th percentile."""
    cuts = statistics.quantiles(seconds, n=20)
    return {
        "inserts": len(seconds),
        "mean": round(statistics.mean(seconds), 3),
        "p50": round(cuts[9], 3),
        "p95": round(cuts[18], 3),
    }


def summary(stack: Stack, material: Material, is_over: Callable[[int], bool]) -> dict[str, Any]:
    """Insert; return count, mean, median and 95th percentile, and what the metric says of them."""
    before = observed(stack)
    seconds = latencies(stack, material, is_over)
    wait_until(
        lambda: observed(stack)["count"] >= before["count"] + len(seconds),
        deadline_seconds=60,
        doing="the metric to have all inserts",
    )
    found = observed(stack)
    found.subtract(before)
    return {
        **spread(seconds),
        "metric": {
            "count": found["count"],
            "mean": round(found["sum"] / found["count"], 3),
            "p50": round(quantile(found, 0.5), 3),
            "p95": round(quantile(found, 0.95), 3),
        },
    }


def measure(
    stack: Stack, material: Material, most: int, minutes: float, idle: int
) -> dict[str, Any]:
    """Fill the stack, measure it idle, then during a re-caption."""
    promote(stack, material, seed=0)
    build_state_index(stack.documents, DEFAULT)
    documents = fill(stack, material, most, minutes)
    before = summary(stack, material, lambda number: number >= idle)
    calls = stack.metric(CLIP.name, "captionstream_model_inputs_total")
    version = promote(stack, material, seed=1)
    started = time.monotonic()
    wait_until(lambda: captioned(stack, version), deadline_seconds=120, doing="the first caption")
    first = time.monotonic() - started
    everything = documents + idle
    during = summary(stack, material, lambda n: captioned(stack, version) >= everything + n)
    seconds = time.monotonic() - started
    encoded = stack.metric(CLIP.name, "captionstream_model_inputs_total") - calls
    return {
        "documents": documents,
        **material.report,
        "recaption_seconds": round(seconds, 1),
        "seconds_to_first": round(first, 1),
        "recaptions_per_second": round(documents / seconds, 1),
        "clip_calls_for_recaption": encoded - during["inserts"],
        "idle_seconds": before,
        "during_seconds": during,
        "ratio_p50": round(during["p50"] / before["p50"], 2),
        "ratio_p95": round(during["p95"] / before["p95"], 2),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=None, help="at most so many  [10000]")
    parser.add_argument("--photographs", action="store_true", help="photographs, RN50")
    parser.add_argument("--images", type=Path, default=SHARED, help="directory of JPEG files")
    parser.add_argument("--minutes", type=float, default=10, help="to fill with photographs")
    parser.add_argument("--idle", type=int, default=100, help="inserts while nothing else runs")
    parser.add_argument("--chunk", type=int, default=None, help="reconciler's chunk size")
    arguments = parser.parse_args()
    material = real(arguments.images) if arguments.photographs else small()
    if arguments.photographs:
        most, minutes = arguments.documents or sys.maxsize, arguments.minutes
    else:
        most, minutes = arguments.documents or 10_000, math.inf
    with tempfile.TemporaryDirectory() as name:
        chosen = {} if arguments.chunk is None else {"RECONCILER__CHUNK_SIZE": str(arguments.chunk)}
        clip = "RN50" if arguments.photographs else str(write_tiny_clip(Path(name)))
        stack = Stack(
            Path(name) / "data",
            user_environment(
                CLIP__MODEL=clip,
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
                **chosen,
            ),
        )
        try:
            results = measure(stack, material, most, minutes, arguments.idle)
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sys.exit(int(results["clip_calls_for_recaption"] > 0))


if __name__ == "__main__":
    main()
