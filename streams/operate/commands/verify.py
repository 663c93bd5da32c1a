"""The command `verify`: whether every document holds what its image gives."""

# ruff: noqa: PLC0415 - torch is loaded by the one command that needs it

import json
from contextlib import closing
from typing import Annotated, Final

import typer
from bson import json_util

from streams.logs import configure_command_logging
from streams.mongo.store import DocumentStore
from streams.operate.commands.context import (
    AsJson,
    DataDir,
    declared_pipeline,
    err,
    open_state,
    out,
    settings_of,
)
from streams.operate.status import read_progress, wait_for_progress
from streams.registry.versions import Registry
from streams.stages import processes_of

#: Findings that are shown; all of them with --json.
_SHOWN: Final = 20
#: Longer than a batch, and than the time in which an idle publisher keeps its position.
_STANDSTILL_SECONDS: Final = 10.0


def verify(
    sample: Annotated[
        int | None, typer.Option(min=1, help="Documents to check, drawn at random.  [all]")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a document may stay unfinished.")
    ] = 30.0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compute outputs again and compare them with what the documents hold. Nothing is written.

    A document is right if its outputs are those of its current image by the versions that serve,
    or if it carries an error that is true and that a dead letter reports. The environment must be
    that of the stages: CLIP, limits of images. Exit code 1 if anything is wrong, or if a process is
    missing or makes no progress.

    Example: captionstream verify --sample 1000
    """
    from streams.images.pool import DecodePool
    from streams.operate.verify import Verifier

    settings = settings_of(data_dir)
    configure_command_logging("verify")
    client, state = open_state(settings)
    pipeline = declared_pipeline(settings, client)
    store = DocumentStore(client, settings.mongo, pipeline)
    before = read_progress(state, store.tenant)
    with (
        closing(DecodePool(settings.image, workers=1)) as decoders,
        err.status("reading documents") as line,
    ):
        found = Verifier(settings, store, Registry(state), decoders).verify(
            sample,
            patience_seconds=patience,
            watch=lambda checked: line.update(f"{checked} documents checked"),
        )
        still = wait_for_progress(
            before,
            state,
            store.tenant,
            stages=processes_of(pipeline),
            patience_seconds=max(patience, _STANDSTILL_SECONDS),
        )
    problems = [
        (json_util.dumps(finding.document_id), finding.problem) for finding in found.findings
    ]
    if as_json:
        findings = [{"id": json.loads(id_), "problem": problem} for id_, problem in problems]
        report = {
            "checked": found.checked,
            "wrong": findings,
            "errors": dict(found.errors),
            "standing_still": still,
        }
        typer.echo(json.dumps(report))
    else:
        for id_, problem in problems[:_SHOWN]:
            out.print(f"{id_}: {problem}", markup=False)
        for stage, reason in still.items():
            out.print(f"{stage}: {reason}")
        out.print(f"{found.checked} documents checked, {len(problems)} wrong")
    if problems or still:
        raise typer.Exit(1)
