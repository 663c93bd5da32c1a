"""A snapshot on disk: what the trainer learns from, frozen.

A directory of two files: `manifest.json` and `documents.parquet`, one row for each document with
its fold, its captions and its stored CLIP vector. Rows are read in groups, so memory stays the same
however many there are.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from streams.errors import InvalidSnapshot

MANIFEST: Final = "manifest.json"
DOCUMENTS: Final = "documents.parquet"
#: Rows of one group: what is in memory at a time.
GROUP_ROWS: Final = 4096
FORMAT_VERSION: Final = 1


class ClusterTime(BaseModel):
    """A MongoDB clusterTime: seconds since the epoch, and a count within the second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    t: int
    i: int


class Counts(BaseModel):
    """What became of the documents.

    Attributes:
        documents: All that were there.
        included: Those with captions and a current vector, in the folds train and valid.
        held_out: The same in the fold test, or in a frozen validation set: no fit sees them.
        unknown_fold: The same with a `_fold` that names no fold.
        without_captions: Those with a current vector and no usable caption.
        without_vector: Those that CLIP was not applied to yet.
        other_version: Those whose vector is of another CLIP version than the serving one.
        failed: Those that CLIP could not be applied to.
        unreadable: Those whose vector is none, or of another length than the others'.
        unusable_captions: No documents: the values in `captions` that are no text with a letter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = 0
    included: int = 0
    held_out: int = 0
    unknown_fold: int = 0
    without_captions: int = 0
    without_vector: int = 0
    other_version: int = 0
    failed: int = 0
    unreadable: int = 0
    unusable_captions: int = 0

    def left_out(self) -> str:
        """Return how many documents are not included, by reason; "" when all are."""
        reasons = self.model_dump(exclude={"documents", "included", "unusable_captions"})
        return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in reasons.items() if n)

    def remarks(self) -> list[str]:
        """Return what somebody has to put right, a sentence for each."""
        found = []
        if self.unknown_fold:
            found.append(
                f"{self.unknown_fold} documents are not used, because `_fold` is none of train,"
                " valid and test"
            )
        if self.unusable_captions:
            found.append(
                f"{self.unusable_captions} values in `captions` are passed over, because they are"
                " no text with a letter in it"
            )
        return found


class SnapshotManifest(BaseModel):
    """What a snapshot is, beside its rows.

    Attributes:
        format_version: Layout of the two files.
        snapshot_id: First 16 hexadecimal digits of the content hash.
        created_at: When it was taken.
        database: Database that was read.
        collection: Collection that was read.
        cluster_time: The one moment that all rows are of.
        clip_version: CLIP version of every vector.
        dimension: Length of every vector.
        counts: What became of the documents.
        folds: Rows by fold.
        content_hash: sha256 over CLIP version and rows, hexadecimal; not over the file, so equal
            content has an equal hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    snapshot_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    created_at: datetime
    database: str
    collection: str
    cluster_time: ClusterTime
    clip_version: str
    dimension: int = Field(ge=1, le=1_000_000)
    counts: Counts
    folds: dict[str, int]
    content_hash: str


def schema(dimension: int) -> pa.Schema:
    """Return the columns of a snapshot: id, fold, captions, clip (D float32)."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("fold", pa.string(), nullable=False),
            pa.field("captions", pa.list_(pa.string()), nullable=False),
            pa.field("clip", pa.list_(pa.float32(), dimension), nullable=False),
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
            data = (directory / MANIFEST).read_bytes()
            manifest = SnapshotManifest.model_validate_json(data)
            with pq.ParquetFile(directory / DOCUMENTS) as file:
                rows, found = file.metadata.num_rows, file.schema_arrow
        except FileNotFoundError as exc:
            msg = f"no snapshot at {directory}; take one by `captionstream-trainer snapshot`"
            raise InvalidSnapshot(msg) from exc
        except (OSError, ValueError, pa.ArrowException) as exc:
            raise _damaged(directory, exc) from exc
        if manifest.format_version != FORMAT_VERSION:
            msg = f"snapshot format {manifest.format_version} is unknown, expected {FORMAT_VERSION}"
            raise InvalidSnapshot(msg)
        if rows != manifest.counts.included or not found.equals(schema(manifest.dimension)):
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
