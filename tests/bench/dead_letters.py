"""Listing dead letters: memory must not grow with their number.

Writes dead letters to a broker of its own, then lists all of them in a process of its own, once for
a tenth of them and once for all; compares the most memory that each has used. Exit code 1 if they
differ by more than a quarter.

    python -m tests.bench.dead_letters --letters 100000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bson.timestamp import Timestamp

from streams.contract.dead_letters import dead_letter_record
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import OutputError
from streams.contract.events import DocumentChanged, Record
from streams.contract.pipeline import CHANGES, dead_letter_topic
from streams.contract.wire import encode_event
from streams.kafka.producer import EventProducer
from streams.kafka.topics import create_topics
from streams.local.broker import Broker, find_broker
from streams.settings import KafkaSettings, LocalSettings, Settings, child_environment
from tests.ports import free_port

_MOST_GROWTH = 1.25
_PIECE = 5000


def letters(numbers: range, tenant: str) -> Iterator[Record]:
    """Yield a dead letter for each number."""
    error = OutputError(
        type="InvalidImage", message="img is missing", attempts=1, is_retryable=False
    )
    for number in numbers:
        change = DocumentChanged(document_id=number, source=Timestamp(100, 1))
        record = encode_event(change, tenant=tenant)
        yield dead_letter_record(
            record,
            stage="clip",
            topic=CHANGES,
            position=f"0:{number}",
            model="clip",
            error=error,
        )


def write(numbers: range, settings: Settings) -> None:
    """Write a dead letter for each number."""
    producer = EventProducer(settings.kafka)
    topic = dead_letter_topic(CHANGES)
    for start in range(numbers.start, numbers.stop, _PIECE):
        piece = range(start, min(start + _PIECE, numbers.stop))
        producer.publish(topic, letters(piece, settings.mongo.tenant))
    producer.close()


def listing(settings: Settings) -> dict[str, float]:
    """List all in a process of its own; return what it has used."""
    code = (
        "import resource, sys; from streams.cli import app;"
        " app(sys.argv[1:], standalone_mode=False);"
        " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.Popen(
        [sys.executable, "-c", code, "dead-letters", "list", "--json"],
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stdout is not None
    assert done.stderr is not None
    lines = sum(1 for _ in done.stdout)
    words = done.stderr.read().split()
    assert done.wait() == 0, words[-50:]
    seconds = time.monotonic() - started
    return {"letters": lines, "seconds": round(seconds, 1), "mib_most": int(words[-1]) // 1024}


def main() -> None:
    """Write, list a tenth, write the rest, list all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=100_000)
    count = parser.parse_args().letters
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        broker = Broker(
            find_broker(LocalSettings()),
            directory=directory,
            log=directory / "broker.log",
            port=free_port(),
        )
        broker.start()
        try:
            kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
            settings = Settings(kafka=kafka)
            create_topics(settings.kafka, DEFAULT)
            write(range(count // 10), settings)
            few = listing(settings)
            write(range(count // 10, count), settings)
            all_ = listing(settings)
        finally:
            broker.stop()
    growth = round(all_["mib_most"] / few["mib_most"], 3)
    is_flat = growth <= _MOST_GROWTH
    print(json.dumps({"few": few, "all": all_, "growth": growth, "flat": is_flat}))
    assert (few["letters"], all_["letters"]) == (count // 10, count)
    sys.exit(not is_flat)


if __name__ == "__main__":
    main()
