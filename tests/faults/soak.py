"""Harm a loaded stack at random, then verify every document. `python -m tests.faults.soak`.

The documents are verified before each strike after which they are made anew or are gone, and at the
end. With `--profile bare` there are no such strikes, and the reconciler rests: what is lost stays
lost. Prints a report as JSON; exit code 1 if a document is lost, stale or risen again.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from streams.contract.pipeline import Pipeline
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
from tests.faults.load import Load, picture, web
from tests.faults.looks import SETTLE_SECONDS, is_good, look, verify, wrong_documents
from tests.faults.pipeline_strikes import strays
from tests.faults.programs import TEST_COMMANDS, write_mongod
from tests.faults.progress import Writes, longest_gap
from tests.faults.strikes import HEALERS, PROFILES, STRIKES
from tests.faults.target import Strike, Target
from tests.pipelines import CLIP_PROJECTION, CONDITIONAL_LM
from tests.tiny import write_tiny_clip

#: Settings of the reconciler: one that is always at work, and one that never is.
PACES: Mapping[str, Mapping[str, str]] = {
    "all": {"INTERVAL_SECONDS": "5", "GRACE_SECONDS": "10"},
    "bare": dict.fromkeys(
        ("INTERVAL_SECONDS", "GRACE_SECONDS", "RETRY_AFTER_SECONDS"), str(86_400 * 365)
    ),
}


@contextmanager
def running(
    directory: Path, profile: str = "all"
) -> Iterator[tuple[Stack, Settings, JumpingClock]]:
    """A stack, the settings with which one more process of it can be started, and its clock."""
    clock = JumpingClock(directory)
    clip = ClipSettings(model=str(write_tiny_clip(directory)), pretrained="random")
    environment = user_environment(
        CLIP__MODEL=clip.model,
        CLIP__PRETRAINED="random",
        STAGE__TORCH_THREADS="1",
        KAFKA__SESSION_TIMEOUT_SECONDS="6",
        FETCH__ALLOW_HOSTS="127.0.0.1",
        LOCAL__MONGOD=str(write_mongod(directory, *TEST_COMMANDS)),
        **{f"RECONCILER__{name}": value for name, value in PACES[profile].items()},
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
    look_before: Collection[Strike] = HEALERS,
) -> dict[str, Any]:
    """Harm a loaded stack, let it recover, verify every document, and report.

    Args:
        look_before: Strikes before which every document is verified.
    """
    info = stack.info
    begin_captions(stack, generator)
    load = Load(stack.documents, generator.randrange(2**30), url)
    writes = Writes(info["mongo_uri"], info["database"], info["collection"])
    target = Target(stack, settings, load, generator, clock, freeze_seconds)
    pause = threading.Event()
    writes.start()
    writes.is_open.wait(60)
    load.start()
    started = time.monotonic()
    done: Counter[str] = Counter()
    healers = 0
    found_before: list[dict[str, Any]] = []
    for strike in strikes:
        pause.wait(generator.uniform(*pause_seconds))
        if strike in look_before:
            found_before.append({"before": strike.__name__, **look(target)})
        what = strike(target)
        done[what] += 1
        healers += strike in HEALERS
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    pause.wait(pause_seconds[1])
    load.finish()
    seconds = time.monotonic() - started
    written = [started, *writes.times, started + seconds]
    target.wait_for_pending()
    recovering = time.monotonic()
    stack.settle(SETTLE_SECONDS)
    recovered = time.monotonic() - recovering
    writes.finish()
    verified = verify(stack, patience_seconds=60)
    target.count_sent()
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
        "healers": healers,
        "found_before_healers": found_before,
        "records_republished": dict(target.republished),
        **wrong_documents(verified["wrong"]),
        "standing_still": verified["standing_still"],
        "risen": len(load.risen()),
        "pipelines_declared": target.declared,
        "active_models": list(target.pipeline.models),
        "errors_by_type": errors_by_type(stack, target.pipeline),
        "ends": {f"{name} {code}": count for (name, code), count in sorted(ends.items())},
        "problems": [*target.problems, *strays(target), *unasked(said, target.asked)],
        "embeddings_sent_twice": target.sent_twice,
        "guests_that_died_of_a_document": target.deadly,
        "outputs_written": len(writes.times),
        "longest_stall_seconds": round(longest_gap(written, target.looks.spans), 1),
        "longest_stall_outside_outages_seconds": round(
            longest_gap(written, [*target.outages.spans, *target.looks.spans]), 1
        ),
        "seconds_to_recover": round(recovered, 1),
        "documents_by_state": stack.status()["documents"],
    }


def begin_captions(stack: Stack, generator: random.Random) -> None:
    """Let a captioner serve, and wait until the reconciler has done what that means for it.

    What is inserted before it has looked would be published again, whatever becomes of it.
    """
    stack.documents.insert_one({"_id": "first", "img": picture(generator)})
    stack.wait_for_output("first", CLIP_PROJECTION.name)
    publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
    stack.wait_for_output("first", CONDITIONAL_LM.name)


def errors_by_type(stack: Stack, pipeline: Pipeline) -> dict[str, int]:
    """Count the errors that documents carry, of the models that are active."""
    found: Counter[str] = Counter()
    for model in pipeline.models.values():
        path = f"{model.path}.error.type"
        group = [{"$match": {path: {"$exists": True}}}, {"$sortByCount": f"${path}"}]
        for row in stack.documents.aggregate(group):
            found[row["_id"]] += row["count"]
    return dict(sorted(found.items()))


def failings(report: dict[str, Any]) -> dict[str, Any]:
    """Return what was lost, stale, risen again, stuck, or laid at a model's door; empty if good."""
    bad = ("lost", "stale", "wrong", "examples", "risen", "standing_still", "problems")
    blamed = {k: n for k, n in report["errors_by_type"].items() if k.startswith("Model")}
    early = [found for found in report["found_before_healers"] if not is_good(found)]
    found = {name: report[name] for name in bad}
    found |= {"errors_by_type": blamed, "found_before_healers": early}
    return {name: value for name, value in found.items() if value}


def main() -> None:
    """Run the soak and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--profile", choices=sorted(PROFILES), default="all")
    parser.add_argument("--only", choices=sorted(s.__name__ for s in STRIKES), help="one strike")
    parser.add_argument("--pause", type=float, default=12, help="longest pause, in seconds")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311 - which process dies, no secret
    with (
        tempfile.TemporaryDirectory() as name,
        web() as url,
        running(Path(name), arguments.profile) as (stack, settings, clock),
    ):
        chosen = PROFILES[arguments.profile].items()
        weights = {s: n for s, n in chosen if arguments.only in (None, s.__name__)}
        strikes = random_strikes(generator, 60 * arguments.minutes, weights)
        pause = (1.0, arguments.pause)
        found = soak(stack, settings, clock, generator, url, strikes, pause_seconds=pause)
        report = {"seed": arguments.seed, "profile": arguments.profile, **found}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if failings(report) else 0)


if __name__ == "__main__":
    main()
