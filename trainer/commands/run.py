"""`captionstream-trainer run`: the retraining job that a scheduler starts."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.contract.states import Recaption
from streams.errors import InvalidCheckpoint
from trainer.commands.context import AsJson, DataDir, Place, out, place_of
from trainer.commands.fit import (
    USUAL,
    BatchSize,
    Dimension,
    Hidden,
    LearningRate,
    MaxEpochs,
    MaxLength,
    MinCount,
    Patience,
    Seed,
    Threads,
    Words,
    shown,
)
from trainer.commands.measuring import Beam, Name, SetName
from trainer.commands.publish import Again, Metric, MinGain, usual_metric
from trainer.fit.options import FitOptions
from trainer.job.gate import Gate
from trainer.job.runs import Outcome, Run
from trainer.snapshot.files import Snapshot

log = get_logger(__name__)

_WORDS: Final = {
    Outcome.PROMOTED: "a new version serves",
    Outcome.KEPT: "the serving version stays",
    Outcome.NOTHING_NEW: "nothing new",
    Outcome.TOO_LITTLE_DATA: "too little data",
    Outcome.BUSY: "not started",
}


def run(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    min_documents: Annotated[
        int, typer.Option(min=1, help="With fewer usable documents nothing is fitted.")
    ] = 100,
    seed: Seed = USUAL.seed,
    normalization: Words = USUAL.normalization,
    min_count: MinCount = USUAL.min_count,
    max_length: MaxLength = USUAL.max_length,
    batch_size: BatchSize = USUAL.batch_size,
    rate: LearningRate = USUAL.rate,
    hidden: Hidden = USUAL.hidden,
    dimension: Dimension = USUAL.dimension,
    max_epochs: MaxEpochs = USUAL.max_epochs,
    patience: Patience = USUAL.patience,
    threads: Threads = None,
    validation_set: SetName = "default",
    metric: Metric = None,
    min_gain: MinGain = 0.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Fit, and let it serve whatever is found but empty captions."),
    ] = False,
    beam: Beam = None,
    recaption: Again = Recaption.ALL,
    metrics_file: Annotated[
        Path | None,
        typer.Option(help="Figures for node_exporter's textfile collector; ends in .prom."),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="How long a killed job keeps others from starting.")
    ] = 60.0,
    keep: Annotated[
        int,
        typer.Option(min=1, help="Newest snapshots and runs of jobs that stay; runs of `fit` do."),
    ] = 3,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Snapshot, fit, evaluate and publish, if there is enough to learn from and it is new.

    Only one such job runs at a time. One that was killed goes on behind its last checkpoint when it
    is started again with the same data. The exit code is 0 unless something failed; after SIGTERM,
    143, and the next job can start at once.

    Example: captionstream-trainer run conditional_lm --metrics-file /var/lib/trainer.prom
    """
    options = FitOptions(
        seed=seed,
        normalization=normalization,
        min_count=min_count,
        max_length=max_length,
        batch_size=batch_size,
        rate=rate,
        hidden=hidden,
        dimension=dimension,
        max_epochs=max_epochs,
        patience=patience,
    )
    import torch

    from trainer.job.retrain import Plan, retrain

    if threads is not None:
        torch.set_num_threads(threads)
    place = place_of(data_dir)
    client, _ = place.connect()
    plan = Plan(
        model=name,
        gate=Gate(metric=usual_metric(name, metric), min_gain=min_gain, is_forced=force),
        fit_options=options.model_dump(),
        min_documents=min_documents,
        validation_set=validation_set,
        beam=beam or place.settings.models.beam_width,
        recaption=recaption,
        lease_seconds=lease_seconds,
        keep=keep,
    )
    fit = partial(
        _fit_unattended, name, options=options, place=place, resume=not force, as_json=as_json
    )
    with _ended_by_sigterm():
        done = retrain(
            plan,
            fit,
            client=client,
            settings=place.settings,
            directory=place.directory,
            metrics_file=metrics_file,
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    else:
        out.print(line_of(done), markup=False)


def _fit_unattended(
    name: str, snapshot: Snapshot, *, options: FitOptions, place: Place, resume: bool, as_json: bool
) -> Bundle:
    """Fit, and start anew where the checkpoint cannot be used."""
    try:
        return _fit(name, snapshot, options, place, resume=resume, as_json=as_json)
    except InvalidCheckpoint as exc:  # nobody is there who could fit again without it
        log.warning("the fit starts anew", reason=str(exc))
        return _fit(name, snapshot, options, place, resume=False, as_json=as_json)


def _fit(
    name: str, snapshot: Snapshot, options: FitOptions, place: Place, *, resume: bool, as_json: bool
) -> Bundle:
    from trainer.fit.fit import fit
    from trainer.fit.text_encoder import text_encoder

    with shown(name, as_json=as_json) as progress:
        return fit(
            name,
            snapshot,
            options,
            place.directory,
            resume=resume,
            is_job=True,
            encode_texts=text_encoder(place.settings.clip, snapshot.manifest.clip_version),
            progress=progress,
        ).bundle


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the job in good order: it is recorded, and its lease is given away."""

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, the end takes a moment
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def line_of(run: Run) -> str:
    """Return what came of a job as people read it."""
    version = f" ({run.version})" if run.version else ""
    return f"{run.model}: {_WORDS[run.outcome]}{version}: {run.reason}"
