"""`captionstream-trainer evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streams.errors import SettingsError
from streams.registry.versions import Registry
from trainer.commands.context import AsJson, DataDir, out, place_of
from trainer.commands.measuring import (
    Asked,
    Metrics,
    Name,
    SetName,
    Target,
    Where,
    asked_model,
    bundle_of,
    evaluator,
    history_beside,
    named_plugs,
    stored_bundle,
)
from trainer.evaluate.evaluation import Evaluation
from trainer.fit.options import Device
from trainer.report.evaluation_page import caution, evaluation_page, metric_rows, shown
from trainer.report.page import write_page
from trainer.report.training import read_history
from trainer.snapshot.pictures import read_pictures
from trainer.snapshot.validation_set import ValidationSets


def evaluate(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    version: Annotated[
        str | None, typer.Option(help="A unique beginning is enough. Default: what serves.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Directory of a bundle, or of a run, instead of a version.")
    ] = None,
    validation_set: SetName = "default",
    ask: Asked = None,
    target: Target = None,
    metrics: Metrics = None,
    device: Where = Device.AUTO,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version on a frozen validation set; nothing is changed.

    Example: captionstream-trainer evaluate MODEL --html report.html
    """
    if version is not None and bundle is not None:
        msg = "give --version or --bundle, not both"
        raise SettingsError(msg)
    place = place_of(data_dir)
    client, state = place.connect()
    frozen = ValidationSets(state).get(validation_set)
    if bundle is None:
        measured = stored_bundle(Registry(state), name, version)
    else:
        measured = bundle_of(bundle, name)
    pipeline = place.pipeline
    model = asked_model(pipeline, name, ask)
    plugs = named_plugs(target=target, metrics=metrics)
    evaluation = evaluator(place, pipeline, model, frozen, plugs=plugs, device=device)(measured)
    if html is not None:
        ids = [caption.id for caption in shown(evaluation)]
        history = history_beside(bundle) if bundle is not None else None
        page = evaluation_page(
            evaluation,
            version=measured.version,
            images=read_pictures(client, place.settings.mongo, ids),
            history=read_history(history) if history is not None else (),
        )
        write_page(html, page)
    if as_json:
        typer.echo(json.dumps({"version": measured.version, **evaluation.as_json()}))
        return
    _show(evaluation, measured.version)
    if html is not None:
        out.print(f"pictures: {html}", markup=False)


def _show(evaluation: Evaluation, version: str) -> None:
    out.print(
        f"{evaluation.model} {version} on validation set {evaluation.validation_set}"
        f" ({evaluation.digest})",
        markup=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("n", justify="right")
    for row in metric_rows(evaluation.metrics):
        table.add_row(str(row["metric"]), f"{row['value']:.4f}", str(row["n"]))
    out.print(table)
    if caution(evaluation):
        out.print(caution(evaluation))
