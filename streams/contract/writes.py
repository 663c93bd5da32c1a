"""Guarded writes of outputs: what is asked of MongoDB. Pure.

The whole rule of who may overwrite what stands here. An output is written, into documents that
exist, if nothing of ours is stored in its place, or what is stored is of an older change, or it is
of the same change and says otherwise: see `_differs`.

An output that was made of other outputs was made of the same image. So none is written beside one
of those that is of the same or a newer change and of another image, or an error; and what was
written before that goes. An older one of another image is no hindrance: topics have no order among
each other, so what it was made of is still to be written. Nor is another version: that is seen in
the state index, and made again.

What another format holds is not compared. One of the same change is made again if its format is an
earlier one, and left alone if it is a later one: during a rollout an old process takes nothing back
that a new one wrote. One of an older change is outdated in any format.

Therefore duplicates change nothing, an older result never beats a newer one, a deleted document is
never brought back, and the records of a document end in the same outputs in any order.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import UpdateOne

from streams.contract.documents import (
    FORMAT,
    Output,
    OutputError,
    error_fields,
    output_fields,
)
from streams.contract.ids import DocumentId
from streams.contract.pipeline import (
    OUTPUTS,
    Model,
    Pipeline,
)

#: Removes all that stands where outputs belong; goes with `malformed`.
MEND: Final = {"$unset": {OUTPUTS: ""}}


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputWrite:
    """One guarded write: an output or an error of one model for one document."""

    document_id: DocumentId
    source: Timestamp
    model: Model
    result: Output | OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """What a bulk write did, by position in the given list.

    Attributes:
        done: Outputs that were stored.
        kept_away: Outputs that the guard kept away, or whose document is gone.
        rejected: Message for writes that MongoDB refused.
        no_room: Those of them that would make their document larger than MongoDB allows.
    """

    done: Collection[int]
    kept_away: Collection[int]
    rejected: Mapping[int, str]
    no_room: Collection[int] = ()

    @property
    def written(self) -> int:
        """How many were stored."""
        return len(self.done)

    @property
    def ignored(self) -> int:
        """How many the guard kept away."""
        return len(self.kept_away)


def fields_of(write: OutputWrite) -> dict[str, Any]:
    """Return the sub-object that is stored for a write, with the time of now."""
    if isinstance(write.result, Output):
        return output_fields(write.result, source=write.source)
    return error_fields(write.result, source=write.source)


def update_of(write: OutputWrite, fields: Mapping[str, Any], pipeline: Pipeline) -> UpdateOne:
    """Return the update of one output or error to its `fields_of`, under its guard."""
    path = write.model.path
    own = [
        {f"{path}.source": {"$not": {"$type": "timestamp"}}},
        {f"{path}.source": {"$lt": write.source}},
        {f"{path}.source": write.source, **_not_later(path), "$or": _differs(write)},
    ]
    guard: dict[str, Any] = {"_id": {"$eq": write.document_id}, "$or": own}
    if upstream := pipeline.ancestors(write.model):
        guard["$nor"] = [_outdates(model, write) for model in upstream]
    return UpdateOne(guard, {"$set": {path: fields}}, upsert=False)


def drops_of(write: OutputWrite, pipeline: Pipeline) -> list[UpdateOne]:
    """Return removals of what may not stand beside an output or error, where that is stored.

    It says of earlier writes what the guard of `update_of` says of later ones.
    """
    path, source = write.model.path, write.source
    if isinstance(write.result, OutputError):
        stored: dict[str, Any] = {f"{path}.error": {"$exists": True}}
    else:
        stored = {f"{path}.input.{name}": made_of for name, made_of in write.result.inputs.items()}
    return [
        UpdateOne(
            {
                "_id": {"$eq": write.document_id},
                f"{path}.source": source,
                **stored,
                "$or": _outdated(reader, write),
            },
            {"$unset": {reader.path: ""}},
        )
        for reader in pipeline.descendants(write.model)
    ]


def _differs(write: OutputWrite) -> list[dict[str, Any]]:
    """Return when a result may replace another one of the same change.

    An output: when the other is of another version or input, was made from other versions, or is an
    error. An error: when the other is of another version, and that of the error is known (not ""),
    or is an error of that version which could pass: so the document says when it was tried last,
    and whether it can still pass. Both: when the other is of an earlier format.
    """
    path, result = write.model.path, write.result
    other_format = {f"{path}.format": {"$ne": FORMAT}}
    if isinstance(result, OutputError):
        passing = {f"{path}.version": result.version, f"{path}.error.retryable": True}
        return [
            other_format,
            passing,
            *([{f"{path}.version": {"$ne": result.version}}] if result.version else []),
        ]
    return [
        other_format,
        {f"{path}.version": {"$ne": result.version}},
        *_is_of_other_inputs(path, write.model.inputs, result),
        {f"{path}.error": {"$exists": True}},
        *({f"{path}.features.{name}": {"$ne": made}} for name, made in result.features.items()),
    ]


def _outdates(upstream: Model, write: OutputWrite) -> dict[str, Any]:
    """Match documents whose output, or error, of `upstream` does not bear this one beside it.

    An error of the version that it was made from does: the attempt after that was better, and is
    still to be written.
    """
    path, source = upstream.path, write.source
    if isinstance(write.result, OutputError):
        return {f"{path}.source": {"$gt": source}}
    passed = {
        f"{path}.source": source,
        f"{path}.error": {"$exists": True},
        f"{path}.version": write.result.features.get(upstream.name),
    }
    return {
        f"{path}.source": {"$gte": source},
        "$or": _is_of_other_inputs(path, upstream.inputs, write.result),
        "$nor": [passed],
    }


def _outdated(reader: Model, write: OutputWrite) -> list[dict[str, Any]]:
    """Match outputs and errors of `reader` that this output, or error, does not bear beside it."""
    path, result = reader.path, write.result
    older: dict[str, Any] = {f"{path}.source": {"$lt": write.source}}
    same: dict[str, Any] = {f"{path}.source": write.source, **_not_later(path)}
    if isinstance(result, OutputError):
        same |= {
            f"{path}.input": {"$ne": None},
            f"{path}.features.{write.model.name}": {"$ne": result.version},
        }
        return [older, same]
    others = _is_of_other_inputs(path, write.model.inputs, result)
    # An error names no input, so one of the same change stays.
    return [older | {"$or": others}, same | {f"{path}.input": {"$ne": None}, "$or": others}]


def _not_later(path: str) -> dict[str, Any]:
    """Match what is of our format or an earlier one, or of none."""
    return {f"{path}.format": {"$not": {"$gt": FORMAT}}}


def _is_of_other_inputs(path: str, fields: Collection[str], result: Output) -> list[dict[str, Any]]:
    """Match what was made of another content of one of these fields than this output."""
    return [{f"{path}.input.{name}": {"$ne": result.inputs.get(name)}} for name in fields]


def malformed(document_filter: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """Return a filter for documents, among some, whose `_outputs` cannot hold our outputs.

    That is so where a parent of theirs is no object, and where an array stands at one of our paths:
    MongoDB cannot index two such arrays in one document. The field is ours alone, so what a
    producer has put there in our way is removed, all of it: outputs can be made again. Only the
    server sees it: the state index holds what stands at our own paths.
    """
    parents = (OUTPUTS, *sorted({f"{OUTPUTS}.{m.key}" for m in pipeline.models.values()}))
    no_object = [
        {"$not": {"$in": [{"$type": f"${path}"}, ["object", "missing"]]}} for path in parents
    ]
    arrays = [
        {"$eq": [{"$type": f"${path}"}, "array"]} for path in _with_parents(pipeline.state_paths)
    ]
    return {**document_filter, "$expr": {"$or": [*no_object, *arrays]}}


def _with_parents(paths: tuple[str, ...]) -> list[str]:
    """Return paths and everything that they go through."""
    parts = [path.split(".") for path in paths]
    return sorted({".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)})
