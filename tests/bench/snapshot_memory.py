"""Memory of a snapshot of many documents. `python -m tests.bench.snapshot_memory`.

Makes documents with captions and ready vectors in a mongod of its own, takes a snapshot in a
process of its own and samples that process's resident memory. Prints JSON; a ratio near 1 of the
end to the middle says that memory does not grow with the count. Exit code 1: it does.

With `--photographs` each document has a photograph of about 150 kB and a vector of RN50's 1024
numbers, and there are as many as are inserted in `--minutes` and fit into `--gigabytes`.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, output_fields
from streams.local.mongod import Mongod, find_mongod
from streams.mongo.client import connect, state_database
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from streams.settings import MongoSettings, Settings
from tests.bench.photographs import SHARED, photographs
from tests.pipelines import CLIP
from tests.ports import free_port

CLIP_VERSION: Final = "bench"
#: Twice the documents must not need more than a tenth more.
FLAT: Final = 1.1
_CHUNK: Final = 5_000
_CHUNK_OF_PHOTOGRAPHS: Final = 200
_SAMPLE_SECONDS: Final = 0.2


def make_documents(
    settings: MongoSettings, most: int, minutes: float, dimension: int, images: Sequence[bytes]
) -> int:
    """Insert documents that the pipeline would have finished with; return how many.

    They end at `most`, or when the time is over. Without images they have none.
    """
    end = time.monotonic() + 60 * minutes
    chunk = _CHUNK_OF_PHOTOGRAPHS if images else _CHUNK
    count = 0
    generator = np.random.default_rng(0)
    key, name = CLIP.path.removeprefix("_outputs.").split(".")
    with connect(settings) as client:
        Registry(state_database(client, settings)).announce(CLIP.name, CLIP_VERSION, {})
        collection = DocumentStore(client, settings, DEFAULT).collection.with_options(
            write_concern=None
        )
        while count < most and time.monotonic() < end:
            ids = range(count, min(count + chunk, most))
            vectors = generator.standard_normal((len(ids), dimension), dtype=np.float32)
            rows: list[dict[str, Any]] = [
                {
                    "_id": number,
                    "_fold": "train",  # none is held out
                    "captions": [f"a picture of number {number}", "one more caption"],
                    "_outputs": {key: {name: _fields(vector)}},
                }
                for number, vector in zip(ids, vectors, strict=True)
            ]
            for row in rows if images else ():
                row["img"] = images[row["_id"] % len(images)]
            collection.insert_many(rows, ordered=False)
            count = ids.stop
    return count


def _fields(vector: np.ndarray) -> dict[str, Any]:
    output = Output(value=vector, version=CLIP_VERSION, inputs={"img": ""})
    return output_fields(output, source=Timestamp(1, 1))


def take(settings: MongoSettings, directory: Path) -> tuple[dict[str, Any], list[int], float]:
    """Return the snapshot's manifest, samples of resident bytes, and seconds."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "CAPTIONSTREAM_MONGO__URI": settings.uri.get_secret_value(),
        "CAPTIONSTREAM_TRAINER__DIRECTORY": str(directory),
    }
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "snapshot", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    watched, samples = psutil.Process(process.pid), []
    while process.poll() is None:
        try:
            resident = watched.memory_info().rss
        except psutil.NoSuchProcess:
            break
        samples += [resident] if resident else []  # none when it is just ending
        time.sleep(_SAMPLE_SECONDS)
    assert process.stdout is not None
    manifest = json.loads(process.stdout.read())
    return manifest, samples, time.monotonic() - begun


def main() -> None:
    """Measure, and print one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=None, help="at most so many  [1000000]")
    parser.add_argument("--dimension", type=int, default=None, help="[64, with photographs 1024]")
    parser.add_argument("--photographs", action="store_true", help="documents have photographs")
    parser.add_argument("--images", type=Path, default=SHARED, help="directory of JPEG files")
    parser.add_argument("--minutes", type=float, default=10, help="to insert photographs")
    parser.add_argument("--gigabytes", type=float, default=20, help="of photographs, at most")
    arguments = parser.parse_args()
    photos = photographs(arguments.images) if arguments.photographs else None
    fitting = int(1e9 * arguments.gigabytes / photos.mean_bytes) if photos else 1_000_000
    most = arguments.documents or fitting
    dimension = arguments.dimension or (1024 if photos else 64)
    minutes = arguments.minutes if photos else math.inf
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        mongod = Mongod(
            find_mongod(Settings().local),
            data=directory / "data",
            log=directory / "mongod.log",
            port=free_port(),
        )
        mongod.start()
        try:
            settings = MongoSettings(uri=mongod.uri)
            images = photos.images if photos else []
            documents = make_documents(settings, most, minutes, dimension, images)
            manifest, samples, seconds = take(settings, directory / "trainer")
        finally:
            mongod.stop()
        files = sum(file.stat().st_size for file in (directory / "trainer").rglob("*.parquet"))
    assert manifest["counts"]["included"] == documents, manifest["counts"]
    at = {share: samples[int(share * (len(samples) - 1))] for share in (0.25, 0.5, 0.75, 1.0)}
    report = {
        "documents": documents,
        "images": photos.report if photos else None,
        "dimension": dimension,
        "seconds": round(seconds, 1),
        "documents_per_second": round(documents / seconds),
        "parquet_mb": round(files / 1e6, 1),
        "resident_mb_by_share_of_time": {f"{k:.0%}": round(v / 1e6, 1) for k, v in at.items()},
        "resident_mb_most": round(max(samples) / 1e6, 1),
        "ratio_end_to_middle": round(at[1.0] / at[0.5], 3),
        "flat": at[1.0] <= FLAT * at[0.5],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(int(not report["flat"]))


if __name__ == "__main__":
    main()
