"""The retraining job put together: real snapshot, validation set, gate, lease and records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model
from streams.contract.states import Recaption
from streams.errors import SettingsError
from streams.mongo.client import Document, state_database
from streams.mongo.lease import Lease
from streams.registry.versions import Registry
from streams.settings import ClipSettings, MongoSettings, Settings
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.evaluate.measuring import Measuring
from trainer.evaluate.validation_sample import create_validation_set
from trainer.fit.plugs import Plugs
from trainer.fit.text_encoder import text_encoder
from trainer.job.decisions import Decisions
from trainer.job.gate import Gate
from trainer.job.job import Job, Steps, job_lease
from trainer.job.job_metrics import write_job_metrics
from trainer.job.old_files import remove_old
from trainer.job.publish import Publication, check_current, publish
from trainer.job.runs import SUCCESSES, Outcome, Run, Runs
from trainer.snapshot.columns import Reads
from trainer.snapshot.files import Snapshot
from trainer.snapshot.validation_set import ValidationSet, ValidationSets
from trainer.snapshot.writer import serving_versions, take_snapshot

log = get_logger(__name__)

Fit = Callable[[Snapshot], Bundle]
"""Fit the plan's model on a snapshot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the operator decides.

    Attributes:
        model: The model, with the options that versions are asked with.
        reads: The models whose inputs are in the snapshot, and what is learned.
        plugs: Of the model's kind.
        gate: What a candidate must reach; a forced one is fitted even if nothing is new.
        fit_options: All that decides what a fit makes of a snapshot; JSON values.
        min_documents: With fewer usable documents nothing is fitted.
        validation_set: Name of the set; it is created if there is none.
        sample_size: Size of the set if it is created.
        chunk_size: Entries of it that are stored together.
        recaption: What a promotion means for stored outputs.
        lease_seconds: How long a job that was killed keeps others from starting.
        keep: How many snapshots and runs of jobs stay in the trainer's directory.
    """

    model: Model
    reads: Reads
    plugs: Plugs[Any]
    gate: Gate
    fit_options: Mapping[str, Any] = field(default_factory=dict)
    min_documents: int = 100
    validation_set: str = "default"
    sample_size: int = 500
    chunk_size: int = 100
    recaption: Recaption = Recaption.ALL
    lease_seconds: float = 60.0
    keep: int = 3

    def options(self) -> dict[str, Any]:
        """Return what decides whether a job would only repeat an earlier one."""
        return {
            "fit": dict(self.fit_options),
            "metric": self.gate.metric,
            "min_gain": self.gate.min_gain,
            "validation_set": self.validation_set,
            "options": dict(self.model.declaration.options),
        }


def retrain(
    plan: Plan,
    fit: Fit,
    *,
    client: MongoClient[Document],
    settings: Settings,
    directory: Path,
    metrics_file: Path | None = None,
) -> Run:
    """Snapshot, fit, evaluate and publish, as far as there is reason to. See `Job.run`.

    Args:
        plan: What to do.
        fit: How to fit.
        client: Client of the replica set.
        settings: Which collection, and which CLIP encodes texts.
        directory: Directory of the trainer.
        metrics_file: Where to leave figures for Prometheus, after a failure too.

    Raises:
        LeaseLost: The job slept so long that another may have begun; nothing was published.
        SettingsError: The metrics cannot be written, which a job that failed only logs; or the
            gate's metric was not measured.
        StoreUnavailable: MongoDB does not answer.
    """
    state = state_database(client, settings.mongo)
    runs = Runs(state)
    lease = job_lease(state, seconds=plan.lease_seconds)
    earlier = runs.last_success(plan.model.name)  # now: the job may end because MongoDB is away
    job = Job(
        plan.model.name,
        _steps(plan, fit, client=client, settings=settings, directory=directory, lease=lease),
        lease=lease,
        runs=runs,
        options=plan.options(),
        min_documents=plan.min_documents,
        is_forced=plan.gate.is_forced,
    )
    try:
        run = job.run()
    except BaseException:
        try:
            _write_metrics(metrics_file, job, earlier)
        except SettingsError as exc:  # the failure itself is what must be seen
            log.warning("metrics not written", reason=str(exc))
        raise
    _write_metrics(metrics_file, job, earlier)
    return run


def _write_metrics(path: Path | None, job: Job, earlier: Run | None) -> None:
    # A job that found another one at work leaves the file to that one.
    if path is not None and job.ended and job.ended.outcome is not Outcome.BUSY:
        last = job.ended if job.ended.outcome in SUCCESSES else earlier
        write_job_metrics(path, job.ended, last_success=last)


def _steps(
    plan: Plan,
    fit: Fit,
    *,
    client: MongoClient[Document],
    settings: Settings,
    directory: Path,
    lease: Lease,
) -> Steps:
    """Bind each step to the plan and its servers; nothing is done yet."""
    state = state_database(client, settings.mongo)
    registry = Registry(state)
    return Steps(
        remove_old=partial(remove_old, directory, keep=plan.keep),
        take_snapshot=partial(take_snapshot, client, settings.mongo, directory, plan.reads),
        pointer=partial(registry.pointer, plan.model.name),
        validation_set=partial(_frozen_set, client, settings.mongo, plan),
        fit=fit,
        publish=partial(
            _publish,
            plan=plan,
            clip=settings.clip,
            registry=registry,
            decisions=Decisions(state),
            lease=lease,
        ),
    )


def _publish(
    bundle: Bundle,
    validation_set: ValidationSet,
    *,
    plan: Plan,
    clip: ClipSettings,
    registry: Registry,
    decisions: Decisions,
    lease: Lease,
) -> Publication:
    """Measure on the set, and let the bundle serve if it passes the plan's gate."""
    check_current(bundle, validation_set, serving_versions(registry, plan.reads.pipeline))
    measuring = Measuring(
        model=plan.model,
        validation_set=validation_set,
        plugs=plan.plugs,
        encode_texts=text_encoder(clip, plan.reads.pipeline, plan.model, validation_set.versions),
    )
    return publish(
        bundle,
        validation_set,
        evaluate=partial(evaluate_bundle, measuring=measuring),
        registry=registry,
        decisions=decisions,
        gate=plan.gate,
        recaption=plan.recaption,
        before_promotion=lease.check,
    )


def _frozen_set(
    client: MongoClient[Document], settings: MongoSettings, plan: Plan, snapshot: Snapshot
) -> ValidationSet:
    """Return the set; after a change of what is read, the same documents with their new outputs."""
    stored = ValidationSets(state_database(client, settings)).find(plan.validation_set)
    if stored is None:
        return create_validation_set(
            client,
            settings,
            plan.reads,
            name=plan.validation_set,
            sample_size=plan.sample_size,
            chunk_size=plan.chunk_size,
        )
    features = snapshot.manifest.features
    read = {name: features[name].version for name in plan.model.reads if name in features}
    if read.items() <= stored.versions.items():
        return stored
    return create_validation_set(
        client,
        settings,
        plan.reads,
        name=stored.name,
        sample_size=stored.sample_size,
        chunk_size=stored.chunk_size,
        seed=stored.seed,
        refresh=True,
    )
