"""`captionstream doctor`: looks at everything that the pipeline needs, and names the remedy."""

# ruff: noqa: PLC0415 - torch is loaded by the checks that need it

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import typer
from packaging.version import Version
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from streams.contract.default_pipeline import DEFAULT
from streams.contract.kinds import CLIP, is_class
from streams.contract.pipeline import Model, Pipeline
from streams.errors import CaptionstreamError, SettingsError, StoreUnavailable
from streams.kafka.topics import read_topic_states, shown
from streams.mongo.client import reason_of, state_database
from streams.mongo.processes import read_reports
from streams.mongo.rehearsal import rehearse
from streams.mongo.store import DocumentStore
from streams.operate.commands.context import (
    DataDir,
    declared_pipeline,
    open_state,
    out,
    settings_of,
)
from streams.registry.versions import Registry
from streams.settings import ClipSettings, Settings
from streams.stages import processes_of

#: Pins whose other releases were not measured.
_PINNED: Final = {"aiokafka": "0.14.0", "mode-streaming": "0.7.1", "faust-streaming": "0.15.3"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check: what was looked at, what was found, and what to do if it is not right."""

    subject: str
    is_ok: bool
    detail: str
    remedy: str = ""


def doctor(data_dir: DataDir = None) -> None:
    """Check servers, topics, weights, versions and processes; exit code 1 if something is wrong.

    Example: captionstream doctor
    """
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    findings = list(examine(settings, client))
    for finding in findings:
        mark = "ok  " if finding.is_ok else "FAIL"
        out.print(f"{mark} {finding.subject}: {finding.detail}", markup=False)
        if not finding.is_ok:
            out.print(f"     -> {finding.remedy}", markup=False)
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings, client: MongoClient[dict[str, Any]]) -> Iterator[Finding]:
    """Yield one finding for each thing that the pipeline needs."""
    yield _versions()
    state = state_database(client, settings.mongo)
    mongo = _mongo(client, settings)
    yield mongo
    pipeline = declared_pipeline(settings, client) if mongo.is_ok else DEFAULT
    yield _topics(settings, pipeline)
    clips = [m.name for m in pipeline.models.values() if m.declaration.kind == CLIP]
    if clips:
        yield _weights(settings.clip, _running(state, clips) if mongo.is_ok else [])
    if classes := [m for m in pipeline.models.values() if is_class(m.declaration.kind)]:
        yield _guarded("classes", lambda: _classes(classes), "do that here and where models run")
    if mongo.is_ok:
        yield _collection(DocumentStore(client, settings.mongo, pipeline))
        yield _guarded(
            "models", lambda: _models(Registry(state), pipeline), "see the finding above"
        )
        yield _guarded("processes", lambda: _processes(state, pipeline), "see the finding above")


def _guarded(subject: str, check: Callable[[], Finding], remedy: str) -> Finding:
    try:
        return check()
    except CaptionstreamError as exc:
        return Finding(subject=subject, is_ok=False, detail=str(exc), remedy=remedy)


def _versions() -> Finding:
    wrong = [
        f"{name} {metadata.version(name)} (measured with {wanted})"
        for name, wanted in _PINNED.items()
        if Version(metadata.version(name)) != Version(wanted)
    ]
    return Finding(
        subject="versions",
        is_ok=not wrong,
        detail="; ".join(wrong) or ", ".join(f"{n} {v}" for n, v in _PINNED.items()),
        remedy="pip install -e . (installs the pinned releases)",
    )


def _mongo(client: MongoClient[dict[str, Any]], settings: Settings) -> Finding:
    try:
        hello = client.admin.command("hello")
    except PyMongoError as exc:
        return Finding(
            subject="MongoDB",
            is_ok=False,
            detail=f"does not answer: {type(exc).__name__}: {reason_of(exc)}",
            remedy="start it, or set CAPTIONSTREAM_MONGO__URI",
        )
    name = hello.get("setName") or ("sharded cluster" if hello.get("msg") == "isdbgrid" else None)
    if name is None:
        return Finding(
            subject="MongoDB",
            is_ok=False,
            detail="is a standalone server; change streams need a replica set",
            remedy="start mongod with --replSet rs0 and run rs.initiate() once",
        )
    return Finding(
        subject="MongoDB",
        is_ok=True,
        detail=f"{name}, watching {settings.mongo.tenant}",
    )


def _collection(store: DocumentStore) -> Finding:
    def check() -> Finding:
        store.check()
        detail = "takes outputs" if rehearse(store) else "is empty"
        return Finding(subject="collection", is_ok=True, detail=detail)

    return _guarded("collection", check, "change what this names; documents wait until then")


def _topics(settings: Settings, pipeline: Pipeline) -> Finding:
    create = "captionstream topics create"
    start = "start the brokers that hold these partitions; with more copies others would lead them"

    def check() -> Finding:
        states = read_topic_states(settings.kafka, pipeline)
        if states.missing:
            detail = f"missing topics: {', '.join(states.missing)}"
            return Finding(subject="Kafka", is_ok=False, detail=detail, remedy=create)
        if states.leaderless:
            detail = f"no broker leads {shown(states.leaderless)}"
            return Finding(subject="Kafka", is_ok=False, detail=detail, remedy=start)
        copies = "; one copy of each partition" if states.single else ""
        return Finding(subject="Kafka", is_ok=True, detail=f"all topics exist{copies}")

    return _guarded(
        "Kafka", check, "start the broker, or set CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS"
    )


def _weights(clip: ClipSettings, running: Sequence[str]) -> Finding:
    """Judge the settings here, and whether the stages that run have the same CLIP."""
    from streams.models.clip_weights import RANDOM, check_weights

    subject, runs = "CLIP weights", f"; what runs is {', '.join(running)}" if running else ""
    try:
        weights = check_weights(clip)
    except SettingsError as exc:
        remedy = "set CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED"
        return Finding(subject=subject, is_ok=False, detail=f"{exc}{runs}", remedy=remedy)
    if not all(version.startswith(f"{weights.label}-") for version in running):
        return Finding(
            subject=subject,
            is_ok=False,
            detail=f"the settings here mean {weights.label}{runs}",
            remedy="set CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED here as for"
            " the process that encodes; apply, verify and the trainer read them",
        )
    if clip.pretrained == RANDOM:
        return Finding(
            subject=subject,
            is_ok=False,
            detail=f"random: embeddings and captions mean nothing{runs}",
            remedy="set CAPTIONSTREAM_CLIP__PRETRAINED to a tag or a checkpoint",
        )
    download = "" if weights.is_here else ", will be downloaded"
    detail = f"{clip.model} {clip.pretrained}{download}{runs}"
    return Finding(subject=subject, is_ok=True, detail=detail)


def _classes(models: Sequence[Model]) -> Finding:
    """See whether the users' classes can be imported here, and take their options."""
    from streams.models.kinds.find import kind_of

    for model in models:
        kind_of(model.declaration.kind).check(model.declaration)
    names = ", ".join(sorted({model.declaration.kind for model in models}))
    return Finding(subject="classes", is_ok=True, detail=f"{names} can be imported here")


def _running(state: Any, models: Sequence[str]) -> list[str]:
    """Return which versions of some models the processes that are alive have."""
    try:
        reports = read_reports(state)
    except StoreUnavailable:
        return []
    found = {report.versions.get(name) for report in reports for name in models}
    return sorted(version for version in found if version)


def _models(registry: Registry, pipeline: Pipeline) -> Finding:
    serving = registry.serving(pipeline)
    if serving.problems:
        return Finding(
            subject="models",
            is_ok=False,
            detail="; ".join(f"{name} {problem}" for name, problem in serving.problems.items()),
            remedy="captionstream models rollback NAME, or publish a good version and promote it",
        )
    without = [name for name in pipeline.models if name not in serving.versions]
    serves = [f"{name} {version}" for name, version in serving.versions.items()]
    return Finding(
        subject="models",
        is_ok=not without,
        detail=", ".join([*serves, *(f"{name} has no version" for name in without)]),
        remedy="start its process, which announces or makes one if its kind can; else train and"
        " publish one. Until then documents await a model",
    )


def _processes(state: Any, pipeline: Pipeline) -> Finding:
    reports = read_reports(state)
    alive = {report.stage for report in reports}
    missing = [name for name in processes_of(pipeline) if name not in alive]
    waiting = [f"{r.stage}: {r.reason}" for r in reports if not r.is_ready]
    return Finding(
        subject="processes",
        is_ok=not missing and not waiting,
        detail="; ".join([*(f"no {name} runs" for name in missing), *waiting]) or "all run",
        remedy="captionstream up, or captionstream run NAME for each of them",
    )
