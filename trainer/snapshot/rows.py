"""Rows into Parquet, with a hash over what they say."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streams.errors import TooLittleData
from trainer.snapshot.columns import (
    Value,
    Wanted,
    feature_column,
    hash_texts,
    hash_values,
    served_by,
)
from trainer.snapshot.files import GROUP_ROWS, schema
from trainer.snapshot.manifest import Counts, FeatureColumn
from trainer.snapshot.reader import LeftOut, Row

#: Bytes of one group, where rows are large.
_GROUP_BYTES: Final = 64 << 20


@dataclass(kw_only=True, slots=True)
class Written:
    """What was written so far."""

    wanted: Wanted
    features: dict[str, FeatureColumn]
    hash: "hashlib._Hash"
    counts: Counter[str] = field(default_factory=Counter)
    folds: Counter[str] = field(default_factory=Counter)
    models: dict[str, Counter[str]] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "features": self.features,
            "fields": list(self.wanted.fields),
            "models": {name: dict(folds) for name, folds in self.models.items()},
            "counts": Counts(**self.counts),
            "folds": dict(self.folds),
            "content_hash": self.hash.hexdigest(),
        }


def write_rows(
    rows: Iterable[Row | LeftOut],
    path: Path,
    wanted: Wanted,
    dimensions: Mapping[str, int | None],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write the rows that can be learned from, and count all.

    Args:
        rows: What was read.
        path: The file.
        wanted: What was to be read.
        dimensions: Length of the vectors of each output that some document has.
        on_progress: Called with the count of documents so far.

    Raises:
        TooLittleData: There is none.
    """
    features = {
        name: FeatureColumn(version=wanted.versions[name], dimension=dimension)
        for name, dimension in dimensions.items()
    }
    about = {name: column.model_dump() for name, column in features.items()}
    header = json.dumps([about, wanted.fields], sort_keys=True)
    written = Written(
        wanted=wanted,
        features=features,
        hash=hashlib.sha256(header.encode()),
        models={name: Counter() for name in wanted.models},
    )
    good = _good_rows(rows, written, on_progress)
    first = next(good, None)
    if first is None:
        left_out = Counts(**written.counts).left_out() or "no documents"
        msg = f"no document of the folds train and valid can be learned from ({left_out})"
        raise TooLittleData(msg)
    columns = schema(features, wanted.fields)
    with pq.ParquetWriter(
        path,
        columns,
        use_dictionary=["fold"],  # vectors do not repeat
        write_statistics=["fold"],
        write_page_checksum=True,
    ) as writer:
        for group in _groups(chain([first], good)):
            writer.write_batch(_batch(group, columns, features))
            on_progress(written.counts["documents"])
    on_progress(written.counts["documents"])
    return written


def _good_rows(
    rows: Iterable[Row | LeftOut], written: Written, on_progress: Callable[[int], None]
) -> Iterator[Row]:
    """Count everything, hash and yield what is written."""
    for read in rows:
        written.counts["documents"] += 1
        written.counts["unusable_captions"] += read.passed_over
        if isinstance(read, LeftOut):
            written.counts[read.reason] += 1
            if written.counts["documents"] % GROUP_ROWS == 0:
                on_progress(written.counts["documents"])
            continue
        row = _fitting(read, written.features)
        served = served_by(written.wanted, row.values)
        if not served:
            written.counts["unreadable"] += 1
            continue
        written.counts["included"] += 1
        written.folds[row.fold] += 1
        for name in served:
            written.models[name][row.fold] += 1
        _hash(row, written.hash)
        yield row


def _fitting(row: Row, features: Mapping[str, FeatureColumn]) -> Row:
    """Return a row without the outputs that do not fit into their columns."""

    def fits(name: str, column: FeatureColumn) -> bool:
        value = row.values.get(feature_column(name))
        if column.dimension is None:
            return not isinstance(value, np.ndarray)
        return isinstance(value, np.ndarray) and value.size == column.dimension

    wrong = {feature_column(name) for name, column in features.items() if not fits(name, column)}
    if wrong.isdisjoint(row.values):
        return row
    return replace(row, values={n: value for n, value in row.values.items() if n not in wrong})


def _hash(row: Row, digest: "hashlib._Hash") -> None:
    """Add a row; lengths stand before texts, so that no two rows read the same."""
    hash_texts((row.id, row.fold, *row.captions), digest)
    digest.update(len(row.captions).to_bytes(4, "big"))
    hash_values(row.values, digest)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(map(_size, row.values.values()))
        if len(group) == GROUP_ROWS or size > _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _size(value: Value) -> int:
    return len(value) if isinstance(value, str) else value.nbytes


def _batch(
    group: list[Row], columns: pa.Schema, features: Mapping[str, FeatureColumn]
) -> pa.RecordBatch:
    arrays = [
        pa.array([row.id for row in group]),
        pa.array([row.fold for row in group]),
        pa.array([list(row.captions) for row in group]),
    ]
    vectors = {feature_column(n): c.dimension for n, c in features.items()}
    for column in columns.names[len(arrays) :]:
        values = [row.values.get(column) for row in group]
        dimension = vectors.get(column)
        if dimension is None:
            arrays.append(pa.array(values, pa.string()))
        else:
            arrays.append(_vectors(values, dimension))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _vectors(values: Sequence[Value | None], dimension: int) -> pa.Array:
    """Return vectors of one length as a column; a document may lack its own."""
    nothing = np.zeros(dimension, np.float32)
    flat = np.concatenate([nothing if value is None else value for value in values])
    lacking = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimension, mask=lacking)
