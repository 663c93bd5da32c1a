"""`captionstream-trainer fit`."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from streams.models.words import Normalization
from trainer.commands.context import AsJson, DataDir, err, out, place_of
from trainer.fit.options import FitOptions
from trainer.snapshot.files import find_snapshot

if TYPE_CHECKING:
    from trainer.fit.fit import FitResult
    from trainer.fit.fitting import Progress

USUAL: Final = FitOptions()

Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Of the first weights and of every draw.")
]
Words = Annotated[
    Normalization,
    typer.Option(
        "--normalization",
        help="What counts as a word: letters of every script, and each character of those without"
        " spaces; or the letters a to z only.",
    ),
]
MaxLength = Annotated[
    int, typer.Option(min=1, max=1000, help="Most words of a caption; longer ones are cut.")
]
MinCount = Annotated[
    int, typer.Option(min=0, help="A word is known if it occurs more often in the train fold.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images of one step.")]
LearningRate = Annotated[float, typer.Option(min=1e-9, help="Learning rate of Adam.")]
Hidden = Annotated[int, typer.Option(min=1, help="Size of the captioner's state.")]
Dimension = Annotated[int, typer.Option(min=1, help="Length of projected vectors.")]
MaxEpochs = Annotated[int, typer.Option(min=1, help="Most passes over the train fold.")]
Patience = Annotated[
    int, typer.Option(min=1, help="Passes without a better validation loss before it ends.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads of torch; part of the result. Default: all.", show_default=False
    ),
]


def fit(  # noqa: PLR0913 - each is an option of the command
    name: Annotated[str, typer.Argument(help="conditional_lm or clip_projection.")],
    *,
    snapshot: Annotated[
        str, typer.Option(help="Id of a snapshot, or a beginning of it.")
    ] = "latest",
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the last checkpoint.")
    ] = False,
    threads: Threads = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model on a snapshot. The version stays in the run's directory until it is published.

    Example: captionstream-trainer fit conditional_lm --snapshot latest
    """
    import torch

    from trainer.fit.fit import fit as fit_model
    from trainer.fit.text_encoder import text_encoder

    place = place_of(data_dir)
    found = find_snapshot(place.directory, snapshot)
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
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with shown(name, as_json=as_json) as progress:
            result = fit_model(
                name,
                found,
                options,
                place.directory,
                resume=resume,
                encode_texts=text_encoder(place.settings.clip, found.manifest.clip_version),
                progress=progress,
            )
    except KeyboardInterrupt:
        err.print("stopped; the same command with --resume goes on behind the last whole epoch")
        raise typer.Exit(130) from None
    _show(result, as_json=as_json)


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
