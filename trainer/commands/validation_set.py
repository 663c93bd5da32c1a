"""`captionstream-trainer validation-set`."""

import json
from typing import Annotated, Any

import typer

from trainer.commands.context import AsJson, DataDir, out, place_of
from trainer.commands.measuring import Learn, reads_of
from trainer.evaluate.validation_sample import create_validation_set
from trainer.snapshot.validation_set import ValidationSet, ValidationSets

validation_set = typer.Typer(
    help="The frozen documents that versions are measured on.", no_args_is_help=True
)

Name = Annotated[str, typer.Option("--name", help="Name of the set.")]


@validation_set.command("create")
def create(
    sample_size: Annotated[int, typer.Option(min=1, help="How many documents.")] = 500,
    chunk_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Documents stored together.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Decides the sample.")] = 0,
    name: Name = "default",
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="After a change of what is read: same documents, new outputs."
        ),
    ] = False,
    learn: Learn = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Draw documents of the fold `test` and freeze them; once drawn, they stay.

    No fit sees them, even if their `_fold` is changed later.

    Example: captionstream-trainer validation-set create --sample-size 500 --chunk-size 100
    """
    place = place_of(data_dir)
    client, _ = place.connect()
    made = create_validation_set(
        client,
        place.settings.mongo,
        reads_of(place.pipeline, learn),
        name=name,
        sample_size=sample_size,
        chunk_size=chunk_size,
        seed=seed,
        refresh=refresh,
    )
    _show(made, as_json=as_json)


@validation_set.command("show")
def show(name: Name = "default", data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show what a set holds.

    Example: captionstream-trainer validation-set show --name default
    """
    _, state = place_of(data_dir).connect()
    _show(ValidationSets(state).get(name), as_json=as_json)


@validation_set.command("list")
def list_sets(data_dir: DataDir = None) -> None:
    """List the sets.

    Example: captionstream-trainer validation-set list
    """
    _, state = place_of(data_dir).connect()
    for name in ValidationSets(state).names():
        out.print(name)


def _show(shown: ValidationSet, *, as_json: bool) -> None:
    row: dict[str, Any] = {
        "name": shown.name,
        "entries": len(shown.entries),
        "sample_size": shown.sample_size,
        "chunk_size": shown.chunk_size,
        "seed": shown.seed,
        "versions": dict(shown.versions),
        "digest": shown.digest,
        "unusable_captions": shown.passed_over,
    }
    if as_json:
        typer.echo(json.dumps(row))
        return
    few = "" if len(shown.entries) >= shown.sample_size else f" ({shown.sample_size} asked for)"
    out.print(
        f"validation set {shown.name}: {len(shown.entries)} documents{few}, digest {shown.digest}"
        + "".join(f", {name} {version}" for name, version in shown.versions.items()),
        markup=False,
    )
    if shown.passed_over:
        out.print(
            f"{shown.passed_over} values in their `captions` are passed over, because they are no"
            " text with a letter in it",
            markup=False,
        )
