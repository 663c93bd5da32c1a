"""Snapshots without a database: the writer's own files, from rows that a test makes."""

from datetime import UTC, datetime

import numpy as np

from streams.contract.default_pipeline import DEFAULT
from trainer.fit.dataset import read_fold
from trainer.fit.kinds import options_of, plugs_of
from trainer.fit.plugs import Material
from trainer.snapshot.columns import Reads, feature_column, wanted_of
from trainer.snapshot.files import DOCUMENTS, MANIFEST, Snapshot
from trainer.snapshot.manifest import ClusterTime, SnapshotManifest, declared
from trainer.snapshot.reader import Row
from trainer.snapshot.rows import write_rows

WORDS = ("red", "green", "blue", "black")
CLIP = feature_column("clip")
CAPTIONER = DEFAULT.models["conditional_lm"]
PROJECTION = DEFAULT.models["clip_projection"]


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
            values={CLIP: vector.astype(np.float32)},
        )


def write_snapshot(directory, rows, *, clip_version="clip-test", reads=None, dimensions=None):
    """Write rows as `take_snapshot` does; of the default pipeline, if no other is given."""
    place = directory / "snapshots" / "aside"
    place.mkdir(parents=True)
    rows = list(rows)
    reads = reads or Reads(pipeline=DEFAULT)
    wanted = wanted_of(reads, dict.fromkeys(reads.pipeline.models, clip_version))
    dimensions = dimensions or {"clip": rows[0].values[CLIP].size}
    written = write_rows(rows, place / DOCUMENTS, wanted, dimensions)
    manifest = SnapshotManifest(
        snapshot_id=written.hash.hexdigest()[:16],
        created_at=datetime.now(UTC),
        database="d",
        collection="c",
        cluster_time=ClusterTime(t=1, i=1),
        declarations=declared(reads.pipeline),
        **written.described(),
    )
    (place / MANIFEST).write_text(manifest.model_dump_json())
    return Snapshot.open(place.rename(place.with_name(manifest.snapshot_id)))


def material_of(snapshot, model, options, place):
    """Return what a fit makes of a snapshot before it begins."""
    return Material(
        model=model,
        manifest=snapshot.manifest,
        train=read_fold(snapshot, "train", model),
        valid=read_fold(snapshot, "valid", model),
        options=options,
        of_kind=options_of(plugs_of(model), model, options),
        directory=place,
        encode_texts=None,
    )
