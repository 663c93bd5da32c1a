"""Harm a loaded stack at random, then verify every document. `python -m tests.faults.soak`.

Prints a report as JSON; exit code 1 if a document is lost, stale or risen again.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from streams.dead_letter_log import read_topics
from streams.events import IMAGE_FEATURIZED
from streams.settings import (
    ClipSettings,
    FetchSettings,
    KafkaSettings,
    MongoSettings,
    Settings,
    StageSettings,
)
from streams.topics import topic_name
from tests.acceptance.stack import Stack, user_environment
from tests.captioner import publish_tiny_captioner
from tests.faults.clock import JumpingClock
from tests.faults.load import Load, web
from tests.faults.strikes import STRIKES, Strike, Target
from tests.tiny import write_tiny_clip


@contextmanager
def running(directory: Path) -> Iterator[tuple[Stack, Settings, JumpingClock]]:
    """A stack, the settings with which one more process of it can be started, and its clock."""
    clock = JumpingClock(directory)
    clip = ClipSettings(model=str(write_tiny_clip(directory)), pretrained="random")
    environment = user_environment(
        CLIP__MODEL=clip.model,
        CLIP__PRETRAINED="random",
        STAGE__TORCH_THREADS="1",
        KAFKA__SESSION_TIMEOUT_SECONDS="6",
        RECONCILER__INTERVAL_SECONDS="5",
        RECONCILER__GRACE_SECONDS="10",
        FETCH__ALLOW_HOSTS="127.0.0.1",
    )
    stack = Stack(directory / "data", environment | clock.environment)
    info = stack.info
    settings = Settings(
        mongo=MongoSettings(uri=SecretStr(info["mongo_uri"]), database=info["database"]),
        kafka=KafkaSettings(bootstrap_servers=info["kafka"], session_timeout_seconds=6),
        clip=clip,
        stage=StageSettings(torch_threads=1),
        fetch=FetchSettings(allow_hosts="127.0.0.1"),
    )
    try:
        yield stack, settings, clock
    finally:
        stack.stop()


def random_strikes(
    generator: random.Random, seconds: float, weights: Mapping[Strike, int]
) -> Iterator[Strike]:
    """Yield strikes until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield generator.choices(list(weights), weights=list(weights.values()))[0]


def soak(
    stack: Stack,
    settings: Settings,
    clock: JumpingClock,
    generator: random.Random,
    url: str,
    strikes: Iterable[Strike],
    *,
    pause_seconds: tuple[float, float] = (1, 12),
    freeze_seconds: float = 30,
) -> dict[str, Any]:
    """Harm a loaded stack, let it recover, verify every document, and report."""
    publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
    load = Load(stack.documents, generator.randrange(2**30), url)
    target = Target(stack, settings, generator, clock, freeze_seconds)
    pause = threading.Event()
    started = time.monotonic()
    load.start()
    done: Counter[str] = Counter()
    for strike in strikes:
        pause.wait(generator.uniform(*pause_seconds))
        what = strike(target)
        done[what] += 1
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    pause.wait(pause_seconds[1])
    load.finish()
    for thread in target.pending:
        thread.join()
    seconds = time.monotonic() - started
    recovering = time.monotonic()
    stack.run("wait", "--timeout", "300", code=None)
    recovered = time.monotonic() - recovering
    verified = json.loads(stack.run("verify", "--json", "--patience", "60", code=None))
    return {
        "seconds": round(seconds),
        "changes": load.changes,
        "documents": verified["checked"],
        "strikes": done.total(),
        "strikes_by_kind": dict(sorted(done.items())),
        "wrong": len(verified["wrong"]),
        "examples": verified["wrong"][:10],
        "standing_still": verified["standing_still"],
        "risen": len(load.risen()),
        "problems": target.problems,
        "records_twice": records_twice(settings),
        "longest_stall_seconds": longest_stall(stack),
        "seconds_to_recover": round(recovered, 1),
        "documents_by_state": stack.status()["documents"],
    }


def records_twice(settings: Settings) -> int:
    """Count embeddings that were sent again for the same change: the price of at-least-once.

    Only those that the broker still holds: its log is gone when it was killed.
    """
    seen: Counter[tuple[bytes, bytes]] = Counter()
    name = topic_name(IMAGE_FEATURIZED, settings.kafka)
    for _, message in read_topics([name], settings.kafka):
        headers = dict(message.headers)
        seen[message.key or b"", headers.get("ce_clustertime", b"")] += 1
    return seen.total() - len(seen)


def longest_stall(stack: Stack) -> float:
    """Return the longest time in which no embedding was written that is still there, in seconds."""
    path = "_outputs.img.clip.at"
    rows = stack.documents.find({path: {"$exists": True}}, {path: 1})
    times = sorted(row["_outputs"]["img"]["clip"]["at"] for row in rows)
    return max(((b - a).total_seconds() for a, b in pairwise(times)), default=0.0)


def is_good(report: dict[str, Any]) -> bool:
    """Whether nothing was lost, stale, risen again or stuck."""
    bad = ("wrong", "risen", "standing_still", "problems")
    return not any(report[name] for name in bad)


def main() -> None:
    """Run the soak and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=sorted(s.__name__ for s in STRIKES), help="one strike")
    parser.add_argument("--pause", type=float, default=12, help="longest pause, in seconds")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311 - which process dies, no secret
    with (
        tempfile.TemporaryDirectory() as name,
        web() as url,
        running(Path(name)) as (stack, settings, clock),
    ):
        weights = {s: n for s, n in STRIKES.items() if arguments.only in (None, s.__name__)}
        strikes = random_strikes(generator, 60 * arguments.minutes, weights)
        pause = (1.0, arguments.pause)
        found = soak(stack, settings, clock, generator, url, strikes, pause_seconds=pause)
        report = {"seed": arguments.seed, **found}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if is_good(report) else 1)


if __name__ == "__main__":
    main()
