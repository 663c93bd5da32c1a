"""Commands about the declared pipeline: show, plan, apply, activate, deactivate, forget."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pymongo import MongoClient

from streams.contract.declaration import Declaration, ModelState, with_state
from streams.contract.plan import Plan
from streams.mongo.client import state_database
from streams.mongo.declarations import Stored
from streams.operate.commands.context import (
    AsJson,
    DataDir,
    err,
    open_documents,
    open_state,
    out,
    settings_of,
)
from streams.operate.forget import forget_model
from streams.operate.pipeline import DeclaredPipeline
from streams.operate.pipeline_file import pipeline_yaml, read_pipeline_file
from streams.operate.pipeline_view import (
    pipeline_json,
    pipeline_table,
    plan_json,
    plan_lines,
    plan_table,
)
from streams.operate.status import wait_until_followed, wait_until_settled
from streams.settings import Settings

pipeline = typer.Typer(help="The declared pipeline of models.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML or JSON, as `pipeline show --yaml` prints it.")
]
Name = Annotated[str, typer.Argument(help="Name of the model.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Wait = Annotated[
    float | None,
    typer.Option("--wait", help="Wait up to so many seconds until it is done.", min=0),
]


@pipeline.command("show")
def pipeline_show(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the file that `plan` and `apply` take.")
    ] = False,
) -> None:
    """Show every model below the one whose topic it consumes, what it reads, and its version.

    Example: captionstream pipeline show --yaml > pipeline.yaml
    """
    settings, declared, _ = _open(data_dir)
    stored = declared.read()
    if as_yaml:
        typer.echo(pipeline_yaml(stored.pipeline.declarations), nl=False)
        return
    versions = declared.serving()
    if as_json:
        typer.echo(json.dumps(pipeline_json(stored, versions, settings.kafka)))
        return
    since = f" of {stored.at:%Y-%m-%d %H:%M:%S}" if stored.at else ""
    head = f"{settings.mongo.tenant}, revision {stored.revision}{since}: {stored.reason}"
    out.print(head, markup=False)
    out.print(pipeline_table(stored.pipeline, versions))
    for model, follows in stored.pipeline.added:
        out.print(f"{model} follows {follows} so that an event carries all that its readers read")


@pipeline.command("plan")
def pipeline_plan(file: File, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say what `apply` would start, stop and make again, and how long that takes; change nothing.

    Example: captionstream pipeline plan pipeline.yaml
    """
    settings, declared, _ = _open(data_dir)
    _, plan = declared.plan(read_pipeline_file(file))
    if as_json:
        typer.echo(json.dumps(plan_json(plan, settings.kafka)))
    else:
        _print(plan, settings)


@pipeline.command("apply")
def pipeline_apply(
    file: File,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    yes: Yes = False,
    wait: Wait = None,
    data_dir: DataDir = None,
) -> None:
    """Say what changes, ask, and declare the pipeline in the file; running processes follow.

    Example: captionstream pipeline apply pipeline.yaml --wait 600
    """
    _change(read_pipeline_file(file), reason, _open(data_dir), asks=not yes, wait=wait)


@pipeline.command("activate")
def pipeline_activate(name: Name, wait: Wait = None, data_dir: DataDir = None) -> None:
    """Let a model run; outputs that are missing are made.

    Example: captionstream pipeline activate colour
    """
    _set_state(name, ModelState.ACTIVE, _open(data_dir), wait)


@pipeline.command("deactivate")
def pipeline_deactivate(name: Name, wait: Wait = None, data_dir: DataDir = None) -> None:
    """Let a model rest; its outputs stay.

    Example: captionstream pipeline deactivate colour
    """
    _set_state(name, ModelState.INACTIVE, _open(data_dir), wait)


@pipeline.command("forget")
def pipeline_forget(name: Name, yes: Yes = False, data_dir: DataDir = None) -> None:
    """Remove the outputs, versions and topics of a model that is inactive and that nobody reads.

    Example: captionstream pipeline forget colour
    """
    settings, declared, client = _open(data_dir)
    declared.check_forgettable(name)
    if not yes:
        question = f"Remove every output, version and topic of {name}? They cannot be brought back."
        typer.confirm(question, abort=True)
    with err.status("removing outputs") as line:
        done = forget_model(
            name, settings, client, watch=lambda n: line.update(f"{n} documents done")
        )
    out.print(f"{name} is forgotten: {done.documents} documents, {done.versions} versions")
    for topic in done.topics:
        out.print(f"topic {topic} is deleted", markup=False)
    if done.broker_problem:
        err.print(done.broker_problem, markup=False)
        raise typer.Exit(1)


Opened = tuple[Settings, DeclaredPipeline, MongoClient[dict[str, Any]]]


def _open(data_dir: Path | None) -> Opened:
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    return settings, DeclaredPipeline(settings, client), client


def _set_state(name: str, state: ModelState, opened: Opened, wait: float | None) -> None:
    wanted = with_state(opened[1].read().pipeline.declarations, name, state)
    _change(wanted, f"{name} made {state.value}", opened, asks=False, wait=wait)


def _change(
    wanted: Sequence[Declaration],
    reason: str,
    opened: Opened,
    *,
    asks: bool,
    wait: float | None,
) -> None:
    """Print the plan, ask, and declare: only in place of the pipeline that the plan began with."""
    settings, declared, client = opened
    before, plan = declared.plan(wanted)
    if tuple(wanted) == before.pipeline.declarations:
        out.print(f"revision {before.revision} says the same; nothing is changed")
        return
    _print(plan, settings)
    if asks:
        typer.confirm("Apply?", abort=True)
    stored = declared.replace(wanted, expected_revision=before.revision, reason=reason)
    out.print(f"revision {stored.revision} is declared")
    if wait is not None:
        _wait(stored, settings, client, wait)


def _print(plan: Plan, settings: Settings) -> None:
    out.print(plan_table(plan))
    for line in plan_lines(plan, settings.kafka):
        out.print(line, markup=False)


def _wait(
    stored: Stored, settings: Settings, client: MongoClient[dict[str, Any]], seconds: float
) -> None:
    """Wait until the processes have followed, and then until they are done."""
    deadline = time.monotonic() + seconds
    state = state_database(client, settings.mongo)
    with err.status("waiting"):
        is_done = wait_until_followed(stored, state, timeout_seconds=seconds)
        if is_done:
            store = open_documents(settings, client, stored.pipeline)
            left = deadline - time.monotonic()
            is_done = wait_until_settled(store, state, timeout_seconds=left)
    if not is_done:
        err.print("not done yet: see `captionstream status`")
        raise typer.Exit(1)
