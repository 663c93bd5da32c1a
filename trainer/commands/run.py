"""`captionstream-trainer run`: the retraining job that a scheduler starts."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.contract.states import Recaption
from streams.errors import InvalidCheckpoint
from trainer.commands.context import AsJson, DataDir, out, place_of
from trainer.commands.fit import (
    USUAL,
    BatchSize,
    LearningRate,
    MaxEpochs,
    Option,
    Patience,
    Seed,
    Threads,
    fitted,
)
from trainer.commands.measuring import (
    Asked,
    Learn,
    Loss,
    Metrics,
    Name,
    SetName,
    Splitter,
    Target,
    Where,
    asked_model,
    named_plugs,
    reads_of,
    values_of,
)
from trainer.commands.publish import Again, Metric, MinGain, gate_of
from trainer.fit.options import Device, FitOptions
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
    option: Option = None,
    learn: Learn = None,
    target: Target = None,
    loss: Loss = None,
    splitter: Splitter = None,
    metrics: Metrics = None,
    seed: Seed = USUAL.seed,
    batch_size: BatchSize = USUAL.batch_size,
    rate: LearningRate = USUAL.rate,
    max_epochs: MaxEpochs = USUAL.max_epochs,
    patience: Patience = USUAL.patience,
    threads: Threads = None,
    validation_set: SetName = "default",
    metric: Metric = None,
    min_gain: MinGain = 0.0,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Fit, and let it serve whatever is found, within the limits of its kind.",
        ),
    ] = False,
    ask: Asked = None,
    device: Where = Device.AUTO,
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

    Example: captionstream-trainer run MODEL --metrics-file /var/lib/trainer.prom
    """
    import torch

    from trainer.fit.device import device_of
    from trainer.fit.kinds import plugs_of
    from trainer.job.retrain import Plan, retrain

    named = named_plugs(target=target, loss=loss, splitter=splitter, metrics=metrics)
    options = FitOptions(
        seed=seed,
        batch_size=batch_size,
        rate=rate,
        max_epochs=max_epochs,
        patience=patience,
        kind=values_of(option, "--option"),
        plugs=named,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    place = place_of(data_dir)
    client, _ = place.connect()
    pipeline = place.pipeline
    model = asked_model(pipeline, name, ask)
    plan = Plan(
        model=model,
        reads=reads_of(pipeline, learn),
        plugs=plugs_of(model, named),
        gate=gate_of(model, metric, min_gain=min_gain, is_forced=force),
        fit_options=options.model_dump(),
        min_documents=min_documents,
        validation_set=validation_set,
        recaption=recaption,
        lease_seconds=lease_seconds,
        keep=keep,
    )

    def fit(snapshot: Snapshot, *, resume: bool = not force) -> Bundle:
        """Fit, and start anew where the checkpoint cannot be used."""
        try:
            return fitted(
                place,
                name,
                snapshot,
                options,
                device=device_of(device),
                resume=resume,
                as_json=as_json,
                is_job=True,
            ).bundle
        except InvalidCheckpoint as exc:  # nobody is there who could fit again without it
            log.warning("the fit starts anew", reason=str(exc))
            return fit(snapshot, resume=False)

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
