"""What a document costs beside its models. `python -m tests.bench.overhead`.

Processor milliseconds for each document and process: of fresh documents, whose models are tiny, and
of documents that are done already and come again through all stages, with nothing to write. Prints
JSON. What an idle stack uses is measured first and left out of the rows called `net`: beside other
work a run takes longer, and idle time would count as work.

`--rounds` lets the finished documents come so often; resident memory is compared from the end of
the first tenth on. Exit code 1: the memory of a process of ours has grown.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentChanged, Origin, Record
from streams.contract.pipeline import CHANGES
from streams.contract.wire import encode_event
from streams.kafka.producer import EventProducer
from streams.mongo.client import connect, state_database
from streams.mongo.state_index import build_state_index, state_index
from streams.registry.versions import Registry
from streams.settings import KafkaSettings, MongoSettings
from tests.acceptance.stack import Stack, user_environment
from tests.captioner import promote_tiny_captioner
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

#: Most growth of a process of ours; the servers cache, and keep the log.
_FLAT = 1.1
_SERVERS = ("mongod", "broker")
_SIDE = 8
_IDLE_SECONDS = 15.0

Usage = dict[str, float]


def picture(number: int) -> bytes:
    """Return a picture of 8 x 8 pixels of a colour of its own."""
    data = io.BytesIO()
    colour = (number % 256, number // 256 % 256, number // 65536 % 256)
    Image.new("RGB", (_SIDE, _SIDE), colour).save(data, "PNG")
    return data.getvalue()


def families(stack: Stack) -> dict[str, list[psutil.Process]]:
    """Return each process with its children; all others are children of the supervisor."""
    found = {}
    for name, pid in stack.pids().items():
        process = psutil.Process(pid)
        children = [] if name == "supervisor" else process.children(recursive=True)
        found[name] = [process, *children]
    return found


def processor_seconds(stack: Stack) -> Usage:
    """Return what each process has used so far."""
    return {
        name: sum(sum(process.cpu_times()[:2]) for process in family)
        for name, family in families(stack).items()
    }


def memory(stack: Stack) -> dict[str, int]:
    """Return resident bytes of each process and its children; shared pages count for each."""
    return {
        name: sum(process.memory_info().rss for process in family)
        for name, family in families(stack).items()
    }


def used(stack: Stack, work: Callable[[], None]) -> tuple[Usage, float]:
    """Return what each process uses while some work is done, and the seconds it takes."""
    before, began = processor_seconds(stack), time.monotonic()
    work()
    seconds = time.monotonic() - began
    after = processor_seconds(stack)
    return {name: after[name] - before[name] for name in before}, seconds


def row(busy: Usage, seconds: float, count: int, idle: Usage) -> dict[str, Any]:
    """Return what is printed about some documents; `idle` is what nothing costs in a second."""
    gross = {name: 1000 * spent / count for name, spent in busy.items()}
    net = {name: spent - 1000 * idle[name] * seconds / count for name, spent in gross.items()}
    return {
        "documents": count,
        "documents_per_second": round(count / seconds, 1),
        "processor_milliseconds_per_document": _rounded(gross),
        "net": _rounded(net),
    }


def _rounded(figures: Usage) -> Usage:
    return {
        "all": round(sum(figures.values()), 2),
        **{k: round(v, 2) for k, v in figures.items()},
    }


def finished(stack: Stack, count: int) -> list[Record]:
    """Return records that bring finished documents again, each as of the change it was made for."""
    settings = MongoSettings(database=stack.info["database"])
    first = next(iter(DEFAULT.models.values()))
    rows = stack.documents.find({}, {f"{first.path}.source": 1}).limit(count)
    events = [
        DocumentChanged(
            document_id=found["_id"],
            source=found["_outputs"][first.key][first.name]["source"],
            origin=Origin.RECONCILE,
        )
        for found in rows
    ]
    return [encode_event(event, tenant=settings.tenant) for event in events]


def bring_again(stack: Stack, producer: EventProducer, records: list[Record]) -> None:
    """Send finished documents through all stages once more; return when all have them."""
    done = "captionstream_documents_total"
    # Of an output that nobody reads the sink gets no record, as it is stored already.
    read = sum(bool(DEFAULT.consumers(name)) for name in DEFAULT.models)
    wanted = {
        stage: stack.metric(stage, done) + times * len(records)
        for stage, times in ((CONDITIONAL_LM.name, 1), ("sink", read))
    }
    producer.publish(CHANGES, records)
    wait_until(
        lambda: all(stack.metric(stage, done) >= count for stage, count in wanted.items()),
        deadline_seconds=900,
        doing="finished documents, again",
        pause_seconds=0.5,  # asking costs what is measured
    )


def promote(stack: Stack) -> None:
    """Let a captioner serve."""
    settings = MongoSettings(uri=stack.info["mongo_uri"], database=stack.info["database"])
    with connect(settings) as client:
        registry = Registry(state_database(client, settings))
        wait_until(lambda: registry.pointer(CLIP.name), doing="CLIP")
        promote_tiny_captioner(registry)


def insert(stack: Stack, numbers: range, already: int) -> None:
    """Insert documents; return when they are captioned."""
    captioned = {f"{CONDITIONAL_LM.path}.version": {"$gt": ""}}
    for start in range(numbers.start, numbers.stop, 100):
        some = range(start, min(start + 100, numbers.stop))
        stack.documents.insert_many([{"img": picture(number)} for number in some])
    wait_until(
        lambda: (
            stack.documents.count_documents(captioned, hint=state_index(DEFAULT))
            >= already + len(numbers)
        ),
        deadline_seconds=900,
        doing="captions",
        pause_seconds=0.5,
    )


def measure(stack: Stack, documents: int, rounds: int) -> dict[str, Any]:
    """Measure an idle stack, fresh documents, and finished ones."""
    promote(stack)
    build_state_index(stack.documents, DEFAULT)
    warm = min(documents, 200)
    insert(stack, range(warm), 0)
    spent, seconds = used(stack, lambda: time.sleep(_IDLE_SECONDS))
    idle = {name: used_up / seconds for name, used_up in spent.items()}
    results: dict[str, Any] = {"idle_percent_of_a_core": _rounded(_times(idle, 100))}
    busy, seconds = used(stack, lambda: insert(stack, range(warm, warm + documents), warm))
    results["fresh"] = row(busy, seconds, documents, idle)
    records = finished(stack, documents)
    sizes: list[dict[str, int]] = []

    def come_again(times: int) -> None:
        for _ in range(times):
            bring_again(stack, producer, records)
            sizes.append(memory(stack))

    kafka = KafkaSettings(bootstrap_servers=stack.info["kafka"], prefix=_prefix(stack))
    with closing(EventProducer(kafka)) as producer:
        bring_again(stack, producer, records[:warm])
        busy, seconds = used(stack, lambda: come_again(rounds))
    results["finished"] = row(busy, seconds, rounds * len(records), idle)
    first, last = sizes[len(sizes) // 10], sizes[-1]
    growth = {name: round(last[name] / first[name], 3) for name in first}
    results["resident_mib"] = {name: round(size / 2**20) for name, size in last.items()}
    results["growth"] = growth
    results["flat"] = all(g <= _FLAT for name, g in growth.items() if name not in _SERVERS)
    return results


def _prefix(stack: Stack) -> str:
    return str(json.loads((stack.data_dir / "stack.json").read_text())["kafka_prefix"])


def _times(figures: Usage, factor: float) -> Usage:
    return {name: figure * factor for name, figure in figures.items()}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5, help="how often finished documents come")
    parser.add_argument("--directory", type=Path, help="keep the data and the log here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = arguments.directory or Path(name)
        stack = Stack(
            directory / "data",
            user_environment(
                CLIP__MODEL=str(write_tiny_clip(directory)),
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
            ),
        )
        try:
            results = measure(stack, arguments.documents, arguments.rounds)
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sys.exit(0 if results["flat"] else 1)


if __name__ == "__main__":
    main()
