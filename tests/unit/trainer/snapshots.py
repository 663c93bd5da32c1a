"""Snapshots without a database: the writer's own files, from rows that a test makes."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np

from trainer.snapshot import writer as snapshot_writer
from trainer.snapshot.files import (
    DOCUMENTS,
    MANIFEST,
    ClusterTime,
    Counts,
    Snapshot,
    SnapshotManifest,
)
from trainer.snapshot.reader import Row

WORDS = ("red", "green", "blue", "black")


def colour_rows(count, *, dimension=8, valid_every=5):
    """Images of one colour each: the vector says which, the two captions name it."""
    generator = np.random.default_rng(0)
    for number in range(count):
        colour = int(generator.integers(len(WORDS)))
        vector = 0.1 * generator.standard_normal(dimension)
        vector[colour] += 1
        word = WORDS[colour]
        yield Row(
            id=str(number),
            fold="valid" if number % valid_every == 0 else "train",
            captions=(f"a {word} thing", f"something {word} over there"),
            clip=vector.astype(np.float32),
        )


def write_snapshot(directory, rows, *, clip_version="clip-test"):
    """Write rows as `take_snapshot` does."""
    place = directory / "snapshots" / "aside"
    place.mkdir(parents=True)
    content = snapshot_writer._write(rows, place / DOCUMENTS, clip_version, lambda _: None)
    manifest = SnapshotManifest(
        snapshot_id=content.hash.hexdigest()[:16],
        created_at=datetime.now(UTC),
        database="d",
        collection="c",
        cluster_time=ClusterTime(t=1, i=1),
        clip_version=clip_version,
        dimension=content.dimension,
        counts=Counts(**content.counts),
        folds=dict(Counter(content.folds)),
        content_hash=content.hash.hexdigest(),
    )
    (place / MANIFEST).write_text(manifest.model_dump_json())
    return Snapshot.open(place.rename(place.with_name(manifest.snapshot_id)))
