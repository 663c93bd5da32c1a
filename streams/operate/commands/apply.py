"""The command `apply`: what a model version makes of documents and files, without writing it."""

# ruff: noqa: PLC0415 - torch is loaded by the one command that needs it

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from streams.contract.documents import (
    Output,
)
from streams.contract.ids import DocumentId
from streams.errors import DocumentError
from streams.logs import configure_command_logging
from streams.mongo.store import DocumentStore
from streams.operate.commands.context import (
    AsJson,
    DataDir,
    declared_pipeline,
    open_state,
    out,
    settings_of,
)
from streams.operate.commands.ids import parse_id
from streams.operate.commands.values import shown_value
from streams.registry.versions import Registry


def apply(
    name: Annotated[str, typer.Argument(help="Name of a model of the declared pipeline.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="ID|FILE...", help="Ids of documents, or image files.")
    ],
    version: Annotated[
        str | None, typer.Option(help="Version, or a unique beginning of one.  [the serving one]")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model makes of documents or image files; nothing is written.

    What it reads of other models is computed first, unless a document holds it and it is current.
    Exit code 1 if an input fails.

    Example: captionstream apply conditional_lm photo.jpg 65f1c0ffee65f1c0ffee65f1
    """
    from streams.images.pool import DecodePool
    from streams.operate.on_demand import OnDemand

    settings = settings_of(data_dir)
    configure_command_logging("apply")
    client, state = open_state(settings)
    with closing(DecodePool(settings.image, workers=1)) as decoders:
        model = OnDemand(
            name,
            version,
            settings,
            Registry(state),
            DocumentStore(client, settings.mongo, declared_pipeline(settings, client)),
            decoders=decoders,
        )
        results = model.apply([_input(source) for source in sources])
        _show(zip(sources, results, strict=True), name, model.version, as_json=as_json)


def _show(
    results: Iterable[tuple[str, Output | DocumentError]], name: str, version: str, *, as_json: bool
) -> None:
    """Print what comes of each input, as soon as it is there.

    Raises:
        typer.Exit: One has failed.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("input", "output", "score"):
        table.add_column(column, overflow="fold")
    has_failed = False
    for source, result in results:
        has_failed |= not isinstance(result, Output)
        if as_json:
            typer.echo(json.dumps(_as_json(name, source, result)))
        else:
            table.add_row(source, *_as_row(result))
    if not as_json:
        out.print(f"{name} {version}", markup=False)
        out.print(table)
    if has_failed:
        raise typer.Exit(1)


def _input(source: str) -> Path | DocumentId:
    """A file if there is one of that name, else the id of a document."""
    return Path(source) if Path(source).is_file() else parse_id(source)


def _as_json(name: str, source: str, result: Output | DocumentError) -> dict[str, Any]:
    row: dict[str, Any] = {"input": source, "model": name}
    if not isinstance(result, Output):
        return row | {"error": {"type": type(result).__name__, "message": str(result)}}
    value = result.value.tolist() if isinstance(result.value, np.ndarray) else result.value
    row |= {"version": result.version, "features": dict(result.features), "value": value}
    return row if result.score is None else row | {"score": result.score}


def _as_row(result: Output | DocumentError) -> tuple[str, str]:
    if not isinstance(result, Output):
        return f"{type(result).__name__}: {result}", ""
    score = "" if result.score is None else f"{result.score:.3f}"
    return result.value if isinstance(result.value, str) else shown_value(result.value), score
