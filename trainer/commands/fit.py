"""`captionstream-trainer fit`."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from trainer.commands.context import AsJson, DataDir, Place, err, out, place_of
from trainer.commands.measuring import (
    Loss,
    Name,
    Splitter,
    Target,
    Where,
    asked_model,
    named_plugs,
    values_of,
)
from trainer.fit.options import Device, FitOptions
from trainer.snapshot.files import Snapshot, find_snapshot
from trainer.snapshot.manifest import pipeline_of

if TYPE_CHECKING:
    import torch

    from trainer.fit.fit import FitResult
    from trainer.fit.fitting import Progress

USUAL: Final = FitOptions()

Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Of the first weights and of every draw.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples of one step.")]
LearningRate = Annotated[float, typer.Option(min=1e-9, help="Learning rate of Adam.")]
MaxEpochs = Annotated[int, typer.Option(min=1, help="Most passes over the train fold.")]
Patience = Annotated[
    int, typer.Option(min=1, help="Passes without a better validation loss before it ends.")
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the model's kind, for example hidden=256; repeat it for more.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads of torch; part of the result. Default: all.", show_default=False
    ),
]


def fit(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    snapshot: Annotated[
        str, typer.Option(help="Id of a snapshot, or a beginning of it.")
    ] = "latest",
    option: Option = None,
    target: Target = None,
    loss: Loss = None,
    splitter: Splitter = None,
    seed: Seed = USUAL.seed,
    batch_size: BatchSize = USUAL.batch_size,
    rate: LearningRate = USUAL.rate,
    max_epochs: MaxEpochs = USUAL.max_epochs,
    patience: Patience = USUAL.patience,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the last checkpoint.")
    ] = False,
    threads: Threads = None,
    device: Where = Device.AUTO,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model on a snapshot. The version stays in the run's directory until it is published.

    Example: captionstream-trainer fit MODEL --snapshot latest
    """
    import torch

    from trainer.fit.device import device_of

    place = place_of(data_dir)
    options = FitOptions(
        seed=seed,
        batch_size=batch_size,
        rate=rate,
        max_epochs=max_epochs,
        patience=patience,
        kind=values_of(option, "--option"),
        plugs=named_plugs(target=target, loss=loss, splitter=splitter),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        result = fitted(
            place,
            name,
            find_snapshot(place.directory, snapshot),
            options,
            device=device_of(device),
            resume=resume,
            as_json=as_json,
        )
    except KeyboardInterrupt:
        err.print("stopped; the same command with --resume goes on behind the last whole epoch")
        raise typer.Exit(130) from None
    _show(result, as_json=as_json)


def fitted(
    place: Place,
    name: str,
    snapshot: Snapshot,
    options: FitOptions,
    *,
    device: "torch.device",
    resume: bool,
    as_json: bool,
    is_job: bool = False,
) -> "FitResult":
    """Fit a model of the snapshot's and show how it goes; what encodes texts is at hand."""
    from trainer.fit.fit import fit as fit_model
    from trainer.fit.plugs import Means
    from trainer.fit.text_encoder import text_encoder

    pipeline = pipeline_of(snapshot.manifest)
    model = asked_model(pipeline, name)
    versions = {n: column.version for n, column in snapshot.manifest.features.items()}
    with shown(name, as_json=as_json) as progress:
        return fit_model(
            model,
            snapshot,
            options,
            place.directory,
            resume=resume,
            is_job=is_job,
            means=Means(
                device=device,
                encode_texts=text_encoder(place.settings.clip, pipeline, model, versions),
            ),
            progress=progress,
        )


@contextmanager
def shown(name: str, *, as_json: bool) -> Iterator[Callable[["Progress"], None]]:
    """Show how a fit goes: a bar for people, or a line of JSON for each epoch."""
    columns = (
        TextColumn("fit {task.description}"),
        BarColumn(),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("at most"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err, disable=as_json) as bars:
        task = bars.add_task(name, total=None, epoch="-", loss="-", rate="")

        def on_progress(now: "Progress") -> None:
            fields: dict[str, Any] = {
                "epoch": f"{now.epoch}/{now.max_epochs}",
                "loss": f"{now.loss:.4f}",
            }
            if now.done is not None:
                valid = now.done["valid_loss"]
                fields |= {
                    "loss": f"{now.loss:.4f} (valid {valid:.4f})",
                    "rate": f"{now.done['rate']:.0f} steps/s",
                }
                if as_json:
                    typer.echo(json.dumps(now.done))
            done = (now.epoch - 1) * now.steps + now.step
            bars.update(task, completed=done, total=now.max_epochs * now.steps, **fields)

        yield on_progress


def _show(result: "FitResult", *, as_json: bool) -> None:
    row = {
        "run": result.run_id,
        "directory": str(result.directory),
        "version": result.bundle.version,
        "best_epoch": result.best_epoch,
        "valid_loss": result.valid_loss,
    }
    if as_json:
        typer.echo(json.dumps(row))
        return
    out.print(
        f"version {result.bundle.version}: best of {len(result.history)} epochs was"
        f" {result.best_epoch}, validation loss {result.valid_loss:.4f}; {result.directory}"
    )
