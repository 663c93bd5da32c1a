"""A snapshot on disk: what the trainer learns from, frozen.

A directory of two files: `manifest.json` and `documents.parquet`, one row for each document with
its fold, its captions, and what models read of it: a column for each output, of fixed size where it
is a vector, and one for each field. Rows are read in groups, so memory stays the same however many
there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.errors import InvalidSnapshot
from trainer.snapshot.columns import feature_column, field_column
from trainer.snapshot.manifest import FeatureColumn, SnapshotManifest, parse_manifest

MANIFEST: Final = "manifest.json"
DOCUMENTS: Final = "documents.parquet"
#: Rows of one group: what is in memory at a time.
GROUP_ROWS: Final = 4096


def schema(features: Mapping[str, FeatureColumn], fields: Sequence[str]) -> pa.Schema:
    """Return the columns: id, fold, captions, one for each output and one for each field.

    Vectors are D float32; all else is JSON. A document may lack any of them.
    """

    def feature(column: FeatureColumn) -> pa.DataType:
        is_vector = column.dimension is not None
        return pa.list_(pa.float32(), column.dimension) if is_vector else pa.string()

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("fold", pa.string(), nullable=False),
            pa.field("captions", pa.list_(pa.string()), nullable=False),
            *(pa.field(feature_column(n), feature(column)) for n, column in features.items()),
            *(pa.field(field_column(name), pa.string()) for name in fields),
        ]
    )


class Snapshot:
    """A snapshot that was taken.

    Attributes:
        directory: Where its two files are.
        manifest: What it is.
    """

    def __init__(self, directory: Path, manifest: SnapshotManifest) -> None:
        """Keep both; `open` reads and checks them."""
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the snapshot in a directory.

        Raises:
            InvalidSnapshot: There is none, or its files do not fit each other.
        """
        try:
            manifest = parse_manifest((directory / MANIFEST).read_bytes(), directory)
            with pq.ParquetFile(directory / DOCUMENTS) as file:
                rows, found = file.metadata.num_rows, file.schema_arrow
        except FileNotFoundError as exc:
            msg = f"no snapshot at {directory}; take one by `captionstream-trainer snapshot`"
            raise InvalidSnapshot(msg) from exc
        except (OSError, ValueError, pa.ArrowException) as exc:
            raise _damaged(directory, exc) from exc
        expected = schema(manifest.features, manifest.fields)
        if rows != manifest.counts.included or not found.equals(expected):
            raise _damaged(directory, f"{rows} rows, {manifest.counts.included} expected")
        return cls(directory, manifest)

    def batches(
        self, *, columns: Sequence[str] | None = None, fold: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order, a group at a time.

        Args:
            columns: Names of the columns to read; all when None.
            fold: Only rows of this fold.

        Raises:
            InvalidSnapshot: The file is damaged (its pages carry checksums). Rows that a damaged
                footer hides are noticed at the end, after the others were yielded.
        """
        wanted = None if columns is None else list(dict.fromkeys([*columns, "fold"]))
        path = self.directory / DOCUMENTS
        found, expected = 0, self.manifest.counts.included
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=wanted):
                    found += batch.num_rows
                    chosen = batch
                    if fold is not None:
                        chosen = batch.filter(pc.equal(batch["fold"], fold))
                    yield chosen if columns is None else chosen.select(list(columns))
        except (OSError, ValueError, pa.ArrowException) as exc:
            raise _damaged(self.directory, exc) from exc
        if found != expected:
            raise _damaged(self.directory, f"{found} rows, {expected} expected")


def find_snapshot(directory: Path, wanted: str) -> Snapshot:
    """Return one of the snapshots below a directory.

    Args:
        directory: Directory of the trainer.
        wanted: A unique beginning of an id, or "latest": the one that was taken last.

    Raises:
        InvalidSnapshot: There is none, more than one begins so, or it is damaged.
    """
    places = sorted(directory.glob("snapshots/[0-9a-f]*"))
    if wanted == "latest":
        found = [Snapshot.open(place) for place in places]
        found.sort(key=lambda snapshot: snapshot.manifest.created_at)
        chosen = found[-1:]
    else:
        chosen = [Snapshot.open(place) for place in places if place.name.startswith(wanted)]
    if len(chosen) != 1:
        known = ", ".join(place.name for place in places) or "none"
        msg = (
            f"no single snapshot {wanted!r} in {directory} (known: {known});"
            " take one by `captionstream-trainer snapshot`"
        )
        raise InvalidSnapshot(msg)
    return chosen[0]


def _damaged(directory: Path, reason: object) -> InvalidSnapshot:
    return InvalidSnapshot(
        f"the snapshot at {directory} is damaged ({reason}); remove the directory and take it again"
    )
