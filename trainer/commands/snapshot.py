"""`captionstream-trainer snapshot`."""

import json

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trainer.commands.context import AsJson, DataDir, err, out, place_of
from trainer.commands.measuring import Learn, reads_of
from trainer.snapshot.files import Snapshot
from trainer.snapshot.writer import take_snapshot


def snapshot(learn: Learn = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Freeze captions and all that models read as it is now, for fitting any of them.

    Documents without captions or without current outputs are counted and left out, and so are
    those that versions are measured on (the fold test, frozen validation sets). What is written
    while it is taken does not appear in it. Images are not read.

    Example: captionstream-trainer snapshot --data-dir .captionstream/stack
    """
    place = place_of(data_dir)
    client, _ = place.connect()
    columns = (
        SpinnerColumn(),
        TextColumn("snapshot: {task.completed} documents, {task.fields[rate]} documents/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
        task = progress.add_task("snapshot", total=None, rate="-")

        def on_progress(count: int) -> None:
            seconds = progress.tasks[0].elapsed or 0.0
            rate = f"{count / seconds:.0f}" if seconds else "-"
            progress.update(task, completed=count, rate=rate)

        taken = take_snapshot(
            client,
            place.settings.mongo,
            place.directory,
            reads_of(place.pipeline, learn),
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(taken.manifest.model_dump(mode="json")))
    else:
        _show(taken)


def _show(taken: Snapshot) -> None:
    manifest = taken.manifest
    counts = manifest.counts
    folds = ", ".join(f"{n} {fold}" for fold, n in sorted(manifest.folds.items()))
    out.print(
        f"snapshot {manifest.snapshot_id}: {counts.included} of {counts.documents} documents"
        f" ({folds})"
    )
    if counts.left_out():
        out.print(f"left out: {counts.left_out()}")
    for remark in counts.remarks():
        out.print(remark, markup=False)
    for name, column in manifest.features.items():
        what = "JSON" if column.dimension is None else f"{column.dimension} numbers"
        out.print(f"{name} {column.version}, {what}", markup=False)
    for name, rows in manifest.models.items():
        told = ", ".join(f"{n} {fold}" for fold, n in sorted(rows.items())) or "no document"
        out.print(f"for {name}: {told}", markup=False)
    out.print(str(taken.directory), markup=False)
