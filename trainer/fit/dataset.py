"""Documents in memory: what a fit learns from, as tensors or as what a model preprocesses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import default_collate

from streams.contract.documents import CAPTIONS
from streams.contract.pipeline import OUTPUTS, Model
from streams.errors import InvalidSnapshot, TooLittleData, TrainerError, bounded
from trainer.snapshot.columns import (
    feature_column,
    field_column,
    from_json,
    inputs_of,
)
from trainer.snapshot.files import Snapshot
from trainer.snapshot.manifest import SnapshotManifest

Data = torch.Tensor | list[Any]
"""One thing for each document, or for each target."""

Target = Callable[[Mapping[str, Any]], Any]
"""A document to what is to be learned of it: a list of targets, one target, or None for nothing.

The document has `captions`, the fields that the snapshot holds, and `_outputs`: what models made,
by their name.
"""


def captions_of(document: Mapping[str, Any]) -> Any:
    """Return the captions: what is learned, unless something else is asked for."""
    return document[CAPTIONS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """The documents of one fold that have all that a model reads, and something to learn.

    Attributes:
        inputs: What the model sees, by field: vectors as float32 of shape (N, D), 4 D bytes a
            document and all in memory; other values in a list.
        targets: All targets, those of one document side by side; M of them.
        offsets: Where the targets of each document begin, N + 1 numbers.
    """

    inputs: Mapping[str, Data]
    targets: tuple[Any, ...]
    offsets: torch.Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.offsets) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Documents as a model takes them, and the targets that belong to each.

    Attributes:
        inputs: N of them.
        targets: M of them.
        offsets: Where the targets of each document begin, int64 of shape (N + 1,).
    """

    inputs: Data
    targets: Data
    offsets: torch.Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.offsets) - 1


def take(data: Data, index: torch.Tensor) -> Any:
    """Return some of the data as a batch: rows of a tensor, or the items of a list, collated."""
    if isinstance(data, torch.Tensor):
        return data[index]
    return default_collate([data[number] for number in index.tolist()])


def read_fold(snapshot: Snapshot, fold: str, model: Model, target: Target = captions_of) -> Fold:
    """Return the documents of one fold that a model can learn from.

    Raises:
        TooLittleData: There are none.
        InvalidSnapshot: The snapshot is damaged, or does not hold what the model reads.
        TrainerError: `target` failed.
    """
    inputs = inputs_of(model)
    _check_columns(snapshot, model, inputs)
    count = snapshot.manifest.models.get(model.name, snapshot.manifest.folds).get(fold, 0)
    reader = _Reader(snapshot, inputs, count)
    # What stands beside the captions is read only if somebody asks for it.
    asked = inputs.values() if target is captions_of else columns_of(snapshot.manifest)
    columns = list(dict.fromkeys([CAPTIONS, *asked]))
    for batch in snapshot.batches(columns=columns, fold=fold):
        reader.add(batch, target)
    if not reader.targets:
        msg = (
            f"the snapshot holds no document of the fold `{fold}` that {model.name} can learn from;"
            " insert more documents"
        )
        raise TooLittleData(msg)
    return reader.fold()


def keep_targets(fold: Fold, is_kept: Callable[[Any], bool]) -> Fold:
    """Return a fold with some of its targets, without the documents that have none of these."""
    bounds = fold.offsets.tolist()
    targets = [
        [target for target in fold.targets[begin:end] if is_kept(target)]
        for begin, end in pairwise(bounds)
    ]
    documents = [number for number, kept in enumerate(targets) if kept]
    return Fold(
        inputs={field: _chosen(data, documents) for field, data in fold.inputs.items()},
        targets=tuple(chain.from_iterable(targets)),
        offsets=torch.tensor([0, *accumulate(len(targets[number]) for number in documents)]),
    )


def _chosen(data: Data, numbers: list[int]) -> Data:
    return data[numbers] if isinstance(data, torch.Tensor) else [data[n] for n in numbers]


def targets_of(document: Mapping[str, Any], target: Target) -> Sequence[Any]:
    """Return what is to be learned of a document; nothing of one that is passed over.

    Raises:
        TrainerError: `target` failed.
    """
    try:
        found = target(document)
    except Exception as exc:  # a user's function
        name = getattr(target, "__qualname__", "target")
        msg = f"the target {name} failed ({type(exc).__name__}: {exc}); without one, return None"
        raise TrainerError(bounded(msg)) from exc
    if found is None:
        return ()
    return found if isinstance(found, list | tuple) else (found,)


class _Reader:
    """Batches of a snapshot, put together."""

    def __init__(self, snapshot: Snapshot, inputs: Mapping[str, str], count: int) -> None:
        self._inputs = inputs
        self._vectors: dict[str, np.ndarray] = {}
        self._others: dict[str, list[Any]] = {}
        self.targets: list[Sequence[Any]] = []
        dimensions = {
            feature_column(name): column.dimension
            for name, column in snapshot.manifest.features.items()
        }
        for field, column in inputs.items():
            dimension = dimensions.get(column)
            if dimension is None:
                self._others[field] = []
            else:  # memory that is not written to is not taken
                self._vectors[field] = np.empty((count, dimension), np.float32)

    def add(self, batch: pa.RecordBatch, target: Target) -> None:
        """Take the documents that have all inputs and a target."""
        for column in self._inputs.values():
            batch = batch.filter(batch[column].is_valid())
        found = [targets_of(document, target) for document in documents_of(batch)]
        batch = batch.filter(pa.array([len(targets) > 0 for targets in found], pa.bool_()))
        first = len(self.targets)
        self.targets += [targets for targets in found if len(targets)]
        for field, column in self._inputs.items():
            if field in self._vectors:
                rows = batch[column].flatten().to_numpy(zero_copy_only=False)
                place = self._vectors[field][first : len(self.targets)]
                place[:] = rows.reshape(place.shape)
            else:
                self._others[field] += list(_values(batch[column]))

    def fold(self) -> Fold:
        """Return all that was taken."""
        vectors = {
            field: torch.from_numpy(array[: len(self.targets)])
            for field, array in self._vectors.items()
        }
        inputs: dict[str, Data] = {**vectors, **self._others}
        return Fold(
            inputs={field: inputs[field] for field in self._inputs},
            targets=tuple(chain.from_iterable(self.targets)),
            offsets=torch.tensor([0, *accumulate(map(len, self.targets))]),
        )


def documents_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a snapshot as documents."""
    names = batch.schema.names
    columns = [list(_values(batch[name])) for name in names]
    for row in zip(*columns, strict=True):
        yield document_of(dict(zip(names, row, strict=True)))


def document_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in columns as a document: fields, and `_outputs` by model."""
    document: dict[str, Any] = {CAPTIONS: list(values.get(CAPTIONS) or ())}
    outputs: dict[str, Any] = {}
    for column, value in values.items():
        name = column.partition("/")[2]
        if name and value is not None:
            (outputs if column == feature_column(name) else document)[name] = value
    return {**document, OUTPUTS: outputs}


def _values(column: pa.Array) -> Iterator[Any]:
    """Yield the values of a column: vectors, what stood in JSON, or captions; None for nothing."""
    if pa.types.is_fixed_size_list(column.type):
        for value in column:
            yield value.values.to_numpy() if value.is_valid else None
    elif pa.types.is_string(column.type):
        for text in column.to_pylist():
            yield _json(text)
    else:
        yield from column.to_pylist()


def _json(text: str | None) -> Any:
    return None if text is None else from_json(text)


def columns_of(manifest: SnapshotManifest) -> list[str]:
    """Return the columns of a snapshot that stand beside captions."""
    return [*map(feature_column, manifest.features), *map(field_column, manifest.fields)]


def _check_columns(snapshot: Snapshot, model: Model, inputs: Mapping[str, str]) -> None:
    manifest = snapshot.manifest
    there = {CAPTIONS, *columns_of(manifest)}
    missing = [column.partition("/")[2] for column in inputs.values() if column not in there]
    if missing:
        msg = (
            f"snapshot {manifest.snapshot_id} does not hold {missing[0]!r}, which {model.name}"
            " reads: wait until documents are through the pipeline, and take another by"
            " `captionstream-trainer snapshot`"
        )
        raise InvalidSnapshot(msg)
