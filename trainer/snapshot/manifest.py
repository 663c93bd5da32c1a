"""What a snapshot says of itself."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from streams.contract.declaration import parse_declarations
from streams.contract.pipeline import Pipeline, compile_pipeline
from streams.errors import InvalidSnapshot

#: Layout of the two files of a snapshot; another one is refused.
FORMAT_VERSION: Final = 2


class ClusterTime(BaseModel):
    """A MongoDB clusterTime: seconds since the epoch, and a count within the second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    t: int
    i: int


class Counts(BaseModel):
    """What became of the documents.

    Attributes:
        documents: All that were there.
        included: Those that a model can learn from, in the folds train and valid.
        held_out: The same in the fold test, or in a frozen validation set: no fit sees them.
        unknown_fold: The same with a `_fold` that names no fold.
        without_captions: Those that a model can read, without captions or what else is learned.
        without_field: Those that lack a field which every model reads.
        without_output: Those that the model that is read was not applied to yet.
        other_version: Those whose output is of other versions than the serving ones.
        failed: Those that the model that is read, or one above it, could not be applied to.
        unreadable: Those whose vector is none, or of another length than the others'.
        unusable_captions: No documents: the values in `captions` that are no text with a letter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = 0
    included: int = 0
    held_out: int = 0
    unknown_fold: int = 0
    without_captions: int = 0
    without_field: int = 0
    without_output: int = 0
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


class FeatureColumn(BaseModel):
    """The outputs of one model.

    Attributes:
        version: The version that made all of them.
        dimension: Length of every vector; None for texts and other values, which are JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    dimension: int | None = Field(default=None, ge=1, le=1_000_000)


class SnapshotManifest(BaseModel):
    """What a snapshot is, beside its rows.

    Attributes:
        format_version: Layout of the two files.
        snapshot_id: First 16 hexadecimal digits of the content hash.
        created_at: When it was taken.
        database: Database that was read.
        collection: Collection that was read.
        cluster_time: The one moment that all rows are of.
        declarations: The models that it was taken for, as they were declared.
        features: The outputs that it holds, by name of the model.
        fields: The fields that it holds beside captions.
        models: Rows by fold that hold all that a model reads, by its name.
        counts: What became of the documents.
        folds: Rows by fold.
        content_hash: sha256 over columns and rows, hexadecimal; not over the file, so equal content
            has an equal hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    snapshot_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    created_at: datetime
    database: str
    collection: str
    cluster_time: ClusterTime
    declarations: list[dict[str, Any]]
    features: dict[str, FeatureColumn]
    fields: list[str] = Field(default_factory=list)
    models: dict[str, dict[str, int]] = Field(default_factory=dict)
    counts: Counts
    folds: dict[str, int]
    content_hash: str


def declared(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Return the models of a pipeline as a manifest holds them."""
    return [declaration.model_dump(mode="json") for declaration in pipeline.declarations]


def pipeline_of(manifest: SnapshotManifest) -> Pipeline:
    """Return the models that a snapshot was taken for.

    Raises:
        InvalidPipeline: They are of another release.
    """
    return compile_pipeline(parse_declarations(manifest.declarations))


def parse_manifest(data: bytes, directory: Path) -> SnapshotManifest:
    """Return the manifest in a snapshot's directory.

    Raises:
        InvalidSnapshot: It is of another format.
        ValueError: It is no manifest.
    """
    content = json.loads(data)
    found = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found != FORMAT_VERSION:
        msg = (
            f"the snapshot at {directory} has format {found}, this release reads"
            f" {FORMAT_VERSION}: remove the directory and take it again by `captionstream-trainer"
            " snapshot`"
        )
        raise InvalidSnapshot(msg)
    return SnapshotManifest.model_validate_json(data)
