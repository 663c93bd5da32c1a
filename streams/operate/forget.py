"""Forgetting a model: its outputs, versions and topics go, and nothing of any other model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from streams.contract.declaration import Declaration
from streams.contract.ids import split_ids
from streams.contract.pipeline import OUTPUTS, dead_letter_topic
from streams.errors import BrokerUnavailable, InvalidPipeline
from streams.kafka.topics import delete_topics
from streams.mongo.client import mongo_errors, state_database
from streams.mongo.declarations import Declarations, Stored
from streams.mongo.processes import Report, read_reports
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from streams.settings import Settings
from streams.stages import PUBLISHER, SINK

#: Documents of one write: even if all are as large as can be, it ends before a connection does.
_BATCH: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """What was removed.

    Attributes:
        documents: Documents that held an output or an error of it.
        versions: Versions in the registry.
        topics: Names of topics on the broker.
        broker_problem: Why topics may be left; empty if none is.
    """

    documents: int
    versions: int
    topics: Sequence[str]
    broker_problem: str = ""


def check_forgettable(name: str, declared: Declarations, state: Database[dict[str, Any]]) -> Stored:
    """Return the pipeline of now, if nobody needs the model.

    Raises:
        InvalidPipeline: It is active, a process of it runs, a publisher or sink still works by a
            pipeline in which it was active, another model reads or follows it, or there never was
            one. The message names the remedy.
        StoreUnavailable: MongoDB does not answer.
    """
    stored = declared.read()
    others = [d for d in stored.pipeline.declarations if d.name != name]
    if name in stored.pipeline.models:
        _refuse(f"{name} is active: `captionstream pipeline deactivate {name}` first")
    for other in others:
        if name in (*other.reads, *other.after):
            _refuse(f"{other.name} reads or follows {name}: change or forget {other.name} first")
    if not _declarations_of(name, declared):
        known = ", ".join(d.name for d in stored.pipeline.declarations)
        _refuse(f"no model {name[:80]!r} was ever declared (there are: {known})")
    _check_processes(name, declared, read_reports(state))
    return stored


def _check_processes(name: str, declared: Declarations, reports: Sequence[Report]) -> None:
    """A sink of before would store outputs that are still on their way, a publisher ask for them.

    Both know all models; any other process carries what it does not know.
    """
    if any(name in report.models for report in reports):
        _refuse(f"a process of {name} still runs: wait until `captionstream status` shows none")
    active = max((s.revision for s in declared.history() if name in s.pipeline.models), default=-1)
    for report in reports:
        if report.stage in (PUBLISHER, SINK) and report.revision <= active:
            _refuse(
                f"a {report.stage} works by revision {report.revision}, in which {name} may be"
                " active: try again when it has followed, or restart it"
            )


def forget_model(
    name: str,
    settings: Settings,
    client: MongoClient[dict[str, Any]],
    *,
    watch: Callable[[int], None] = lambda _: None,
) -> Forgotten:
    """Remove a model that nobody needs; repeating it goes on where it stopped.

    1. Take it out of the pipeline, so that nobody activates it meanwhile.
    2. Remove its outputs and errors, in batches.
    3. Remove its pointer, history and versions.
    4. Remove its topics and its group; if the broker does not answer, that is said.

    Args:
        name: Name of the model.
        settings: Where everything is.
        client: Of the documents and the state database.
        watch: Called with how many documents are done, after each batch.

    Raises:
        InvalidPipeline: As `check_forgettable`; nothing is removed then.
        PointerConflict: The pipeline was changed meanwhile; nothing is removed.
        StoreUnavailable: MongoDB does not answer; call it again.
    """
    state = state_database(client, settings.mongo)
    declared = Declarations(state, settings.mongo.tenant)
    stored = check_forgettable(name, declared, state)
    paths = {f"{OUTPUTS}.{d.key}.{name}" for d in _declarations_of(name, declared)}
    left = [d for d in stored.pipeline.declarations if d.name != name]
    if len(left) < len(stored.pipeline.declarations):  # 1
        declared.replace(left, expected_revision=stored.revision, reason=f"{name} forgotten")
    store = DocumentStore(client, settings.mongo, stored.pipeline)
    documents = _remove_outputs(store.collection, sorted(paths), watch)  # 2
    store.no_room.remove(paths)
    versions = Registry(state).forget(name)  # 3
    try:  # 4
        topics = delete_topics([name, dead_letter_topic(name)], [name], settings.kafka)
    except BrokerUnavailable as exc:
        problem = f"its topics may be left: {exc}; forget {name} again when the broker answers"
        return Forgotten(documents=documents, versions=versions, topics=(), broker_problem=problem)
    return Forgotten(documents=documents, versions=versions, topics=topics)


def _remove_outputs(
    collection: Collection[dict[str, Any]], paths: Sequence[str], watch: Callable[[int], None]
) -> int:
    """Go through all documents by their `_id`: no index says which of them hold an output."""
    holds = {"$or": [{path: {"$exists": True}} for path in paths]}
    removal = {"$unset": dict.fromkeys(paths, "")}
    done = 0
    with mongo_errors("removing outputs"):
        rows = collection.find({}, {"_id": 1}).sort("_id", 1)
        while batch := [row["_id"] for row in islice(rows, _BATCH)]:
            for ids in split_ids(batch):
                found = collection.update_many({"_id": {"$in": ids}, **holds}, removal)
                done += found.modified_count
            watch(done)
    return done


def _declarations_of(name: str, declared: Declarations) -> list[Declaration]:
    """Return every declaration that there was of a model: its key may have been another one."""
    every: Iterable[Stored] = declared.history()
    return [d for stored in every for d in stored.pipeline.declarations if d.name == name]


def _refuse(message: str) -> None:
    raise InvalidPipeline(message)
