"""Taking a snapshot: what models read, of one moment, into a directory."""

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pymongo import MongoClient

from streams.contract.pipeline import Pipeline
from streams.contract.versions import output_version
from streams.errors import TrainerError
from streams.mongo.client import Document, cluster_time, state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from trainer.snapshot.columns import Reads, wanted_of
from trainer.snapshot.files import DOCUMENTS, MANIFEST, Snapshot
from trainer.snapshot.manifest import ClusterTime, SnapshotManifest, declared
from trainer.snapshot.reader import dimensions_of, read_rows
from trainer.snapshot.rows import write_rows
from trainer.snapshot.validation_set import ValidationSets

#: Beginning of the name of a snapshot that is not whole yet.
TAKING: Final = ".taking."


def take_snapshot(
    client: MongoClient[Document],
    settings: MongoSettings,
    directory: Path,
    reads: Reads,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Snapshot:
    """Freeze ids, folds, captions, and what models read, as they are at one moment.

    What versions are measured on is left out: the fold test, and every frozen validation set. No
    model is run. The snapshot appears whole or not at all; of equal content one is kept, with
    the latest moment at which it was true.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        directory: Directory of the trainer; the snapshot goes to `snapshots/<id>` below it.
        reads: The models; what any of them reads is in the snapshot, but images are not.
        on_progress: Called with the count of documents read so far, once a group.

    Raises:
        ModelNotFound: No version serves of what is read.
        TooLittleData: No document of the folds train and valid has a current output and what is
            learned.
        TrainerError: The snapshot cannot be written.
        StoreUnavailable: MongoDB does not answer, or forgot the moment while it was read.
    """
    registry = Registry(state_database(client, settings))
    versions = serving_versions(registry, reads.pipeline)
    at = cluster_time(client)
    wanted = wanted_of(reads, versions)
    dimensions = dimensions_of(client, settings, at=at, wanted=wanted)
    parent = directory / "snapshots"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=parent, prefix=TAKING))
    except OSError as exc:
        raise _unwritable(parent, exc) from exc
    try:
        held_out = ValidationSets(state_database(client, settings)).document_ids()
        rows = read_rows(client, settings, at=at, wanted=wanted, held_out=held_out)
        written = write_rows(rows, aside / DOCUMENTS, wanted, dimensions, on_progress)
        manifest = SnapshotManifest(
            snapshot_id=written.hash.hexdigest()[:16],
            created_at=datetime.now(UTC),
            database=settings.database,
            collection=settings.collection,
            cluster_time=ClusterTime(t=at.time, i=at.inc),
            declarations=declared(reads.pipeline),
            **written.described(),
        )
        (aside / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        return _keep(aside, parent / manifest.snapshot_id)
    except OSError as exc:
        raise _unwritable(parent, exc) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def serving_versions(registry: Registry, pipeline: Pipeline) -> dict[str, str]:
    """Return the version of the outputs that each active model makes now; none, no entry.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    pointers = registry.pointers().readable
    return {
        name: output_version(model.declaration, pointer.serving)
        for name, model in pipeline.models.items()
        if (pointer := pointers.get(name)) is not None and pointer.serving is not None
    }


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
