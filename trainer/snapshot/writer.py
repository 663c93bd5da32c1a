"""Taking a snapshot: rows of one moment into Parquet, with a hash over what they say."""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pymongo import MongoClient

from streams.contract.default_pipeline import (
    CLIP,
)
from streams.errors import ModelNotFound, TooLittleData, TrainerError
from streams.mongo.client import Document, cluster_time, state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from trainer.snapshot.files import (
    DOCUMENTS,
    GROUP_ROWS,
    MANIFEST,
    ClusterTime,
    Counts,
    Snapshot,
    SnapshotManifest,
    schema,
)
from trainer.snapshot.reader import LeftOut, Row, read_rows
from trainer.snapshot.validation_set import ValidationSets

#: Beginning of the name of a snapshot that is not whole yet.
TAKING: Final = ".taking."


def take_snapshot(
    client: MongoClient[Document],
    settings: MongoSettings,
    directory: Path,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Snapshot:
    """Freeze ids, folds, captions and stored CLIP vectors as they are at one moment.

    What versions are measured on is left out: the fold test, and every frozen validation set. CLIP
    is not run. The snapshot appears whole or not at all; of equal content one is kept, with
    the latest moment at which it was true.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        directory: Directory of the trainer; the snapshot goes to `snapshots/<id>` below it.
        on_progress: Called with the count of documents read so far, once a group.

    Raises:
        ModelNotFound: No CLIP version serves.
        TooLittleData: No document of the folds train and valid has captions and a current vector.
        TrainerError: The snapshot cannot be written.
        StoreUnavailable: MongoDB does not answer, or forgot the moment while it was read.
    """
    clip_version = serving_clip(client, settings)
    at = cluster_time(client)
    parent = directory / "snapshots"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=parent, prefix=TAKING))
    except OSError as exc:
        raise _unwritable(parent, exc) from exc
    try:
        held_out = ValidationSets(state_database(client, settings)).document_ids()
        rows = read_rows(client, settings, at=at, clip_version=clip_version, held_out=held_out)
        content = _write(rows, aside / DOCUMENTS, clip_version, on_progress)
        manifest = SnapshotManifest(
            snapshot_id=content.hash.hexdigest()[:16],
            created_at=datetime.now(UTC),
            database=settings.database,
            collection=settings.collection,
            cluster_time=ClusterTime(t=at.time, i=at.inc),
            clip_version=clip_version,
            dimension=content.dimension,
            counts=Counts(**content.counts),
            folds=dict(content.folds),
            content_hash=content.hash.hexdigest(),
        )
        (aside / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        return _keep(aside, parent / manifest.snapshot_id)
    except OSError as exc:
        raise _unwritable(parent, exc) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def serving_clip(client: MongoClient[Document], settings: MongoSettings) -> str:
    """Return the CLIP version that serves.

    Raises:
        ModelNotFound: None does.
        StoreUnavailable: MongoDB does not answer.
    """
    pointer = Registry(state_database(client, settings)).pointer(CLIP.name)
    if pointer is None:
        msg = "no CLIP version serves: the featurize stage announces one when it starts"
        raise ModelNotFound(msg)
    return pointer.version


@dataclass(kw_only=True, slots=True)
class _Content:
    """What was written so far."""

    hash: "hashlib._Hash"
    dimension: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    folds: Counter[str] = field(default_factory=Counter)


def _write(
    rows: Iterable[Row | LeftOut],
    path: Path,
    clip_version: str,
    on_progress: Callable[[int], None],
) -> _Content:
    content = _Content(hash=hashlib.sha256(f"{clip_version}\n".encode()))
    good = _good_rows(rows, content, on_progress)
    first = next(good, None)
    if first is None:
        left_out = Counts(**content.counts).left_out() or "no documents"
        msg = f"no document of the folds train and valid can be learned from ({left_out})"
        raise TooLittleData(msg)
    columns = schema(content.dimension)
    with pq.ParquetWriter(
        path,
        columns,
        use_dictionary=["fold"],  # vectors do not repeat
        write_statistics=["fold"],
        write_page_checksum=True,
    ) as writer:
        for group in _groups(chain([first], good)):
            writer.write_batch(_batch(group, columns))
            on_progress(content.counts["documents"])
    on_progress(content.counts["documents"])
    return content


def _good_rows(
    rows: Iterable[Row | LeftOut], content: _Content, on_progress: Callable[[int], None]
) -> Iterator[Row]:
    """Count everything, hash and yield what is written."""
    for row in rows:
        content.counts["documents"] += 1
        content.counts["unusable_captions"] += row.passed_over
        if isinstance(row, LeftOut):
            content.counts[row.reason] += 1
            if content.counts["documents"] % GROUP_ROWS == 0:
                on_progress(content.counts["documents"])
            continue
        content.dimension = content.dimension or row.clip.size
        if row.clip.size != content.dimension:
            content.counts["unreadable"] += 1
            continue
        content.counts["included"] += 1
        content.folds[row.fold] += 1
        _hash(row, content.hash)
        yield row


def _hash(row: Row, digest: "hashlib._Hash") -> None:
    """Add a row; lengths stand before texts, so that no two rows read the same."""
    for text in (row.id, row.fold, *row.captions):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big") + data)
    digest.update(len(row.captions).to_bytes(4, "big"))
    digest.update(row.clip.astype("<f4").tobytes())


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _batch(group: list[Row], columns: pa.Schema) -> pa.RecordBatch:
    vectors = np.concatenate([row.clip for row in group])
    clip = columns.field("clip").type
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row.id for row in group]),
            pa.array([row.fold for row in group]),
            pa.array([list(row.captions) for row in group]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), clip.list_size),
        ],
        schema=columns,
    )


def _keep(aside: Path, place: Path) -> Snapshot:
    """Move a snapshot to its place; if an equal one is there, renew only what it says of itself."""
    aside.chmod(0o755)  # a temporary directory is for its owner only
    try:
        aside.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        (aside / MANIFEST).replace(place / MANIFEST)
    return Snapshot.open(place)


def _unwritable(directory: Path, exc: OSError) -> TrainerError:
    return TrainerError(f"cannot write a snapshot to {directory}: {exc.strerror or exc}")
