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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from streams.documents import MODELS
from streams.settings import (
    ClipSettings,
    FetchSettings,
    KafkaSettings,
    MongoSettings,
    Settings,
    StageSettings,
)
from tests.acceptance.stack import Stack, user_environment
from tests.captioner import publish_tiny_captioner
from tests.faults.clock import JumpingClock
from tests.faults.endings import endings, unasked
from tests.faults.load import Load, web
from tests.faults.programs import TEST_COMMANDS, write_mongod
from tests.faults.progress import Writes, longest_gap
from tests.faults.strikes import STRIKES
from tests.faults.target import Strike, Target
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
        LOCAL__MONGOD=str(write_mongod(directory, *TEST_COMMANDS)),
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
    info = stack.info
    publish_tiny_captioner(info["mongo_uri"], info["database"])
    load = Load(stack.documents, generator.randrange(2**30), url)
    writes = Writes(info["mongo_uri"], info["database"], info["collection"])
    target = Target(stack, settings, load, generator, clock, freeze_seconds)
    pause = threading.Event()
    writes.start()
    writes.is_open.wait(60)
    load.start()
    started = time.monotonic()
    done: Counter[str] = Counter()
    for strike in strikes:
        pause.wait(generator.uniform(*pause_seconds))
        what = strike(target)
        done[what] += 1
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    pause.wait(pause_seconds[1])
    load.finish()
    seconds = time.monotonic() - started
    written = [started, *writes.times, started + seconds]
    for thread in target.pending:
        thread.join()
    recovering = time.monotonic()
    stack.settle(300)
    recovered = time.monotonic() - recovering
    writes.finish()
    verified = json.loads(stack.run("verify", "--json", "--patience", "60", code=None))
    target.count_sent_twice()
    said = stack.said()
    ends = endings(said)
    return {
        "seconds": round(seconds),
        "changes": load.changes,
        "ids_used_again": load.used_again,
        "documents_dropped": load.dropped,
        "documents": verified["checked"],
        "strikes": done.total(),
        "strikes_by_kind": dict(sorted(done.items())),
        **wrong_documents(verified["wrong"]),
        "standing_still": verified["standing_still"],
        "risen": len(load.risen()),
        "errors_by_type": errors_by_type(stack),
        "ends": {f"{name} {code}": count for (name, code), count in sorted(ends.items())},
        "problems": [*target.problems, *unasked(said, target.asked)],
        "embeddings_sent_twice": target.sent_twice,
        "guests_that_died_of_a_document": target.deadly,
        "outputs_written": len(writes.times),
        "longest_stall_seconds": round(longest_gap(written), 1),
        "longest_stall_outside_outages_seconds": round(
            longest_gap(written, target.outages.spans), 1
        ),
        "seconds_to_recover": round(recovered, 1),
        "documents_by_state": stack.status()["documents"],
    }


def wrong_documents(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what `verify` found: outputs that are not there, of an image gone by, and all else."""
    problems = [row["problem"] for row in findings]
    lost = sum(problem.endswith("has to run") for problem in problems)
    stale = sum(problem.endswith("was made from another image") for problem in problems)
    wrong = len(problems) - lost - stale
    return {"lost": lost, "stale": stale, "wrong": wrong, "examples": findings[:10]}


def errors_by_type(stack: Stack) -> dict[str, int]:
    """Count the errors that documents carry."""
    found: Counter[str] = Counter()
    for model in MODELS:
        path = f"{model.path}.error.type"
        group = [{"$match": {path: {"$exists": True}}}, {"$sortByCount": f"${path}"}]
        for row in stack.documents.aggregate(group):
            found[row["_id"]] += row["count"]
    return dict(sorted(found.items()))


def failings(report: dict[str, Any]) -> dict[str, Any]:
    """Return what was lost, stale, risen again, stuck, or laid at a model's door; empty if good."""
    bad = ("lost", "stale", "wrong", "examples", "risen", "standing_still", "problems")
    blamed = {k: n for k, n in report["errors_by_type"].items() if k.startswith("Model")}
    found = {name: report[name] for name in bad} | {"errors_by_type": blamed}
    return {name: value for name, value in found.items() if value}


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
    sys.exit(1 if failings(report) else 0)


if __name__ == "__main__":
    main()
