"""Commands that watch and steer the pipeline: status, wait, dead letters, topics."""

import json
from contextlib import closing, suppress
from typing import Annotated, Final

import typer
from bson import Int64
from rich.table import Table

from streams.contract.ids import document_id_of, document_key
from streams.contract.states import DocumentState
from streams.errors import InvalidEvent, ModelCrashed, ModelHung
from streams.kafka.topics import create_topics, read_topic_states, warning_of_copies
from streams.operate.commands.context import (
    AsJson,
    DataDir,
    declared_pipeline,
    err,
    open_documents,
    open_state,
    out,
    settings_of,
)
from streams.operate.commands.ids import parse_id
from streams.operate.dead_letter_log import DeadLetterLog, Wanted
from streams.operate.dead_letter_replay import replay
from streams.operate.status import Status, read_status, wait_until_settled
from streams.settings import Settings
from streams.stages import processes_of
from streams.stages.quarantine import Quarantine

dead_letters = typer.Typer(help="Records that could not be processed.", no_args_is_help=True)
topics = typer.Typer(help="Topics on the broker.", no_args_is_help=True)

_FATAL: Final = (ModelHung.__name__, ModelCrashed.__name__)


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how far the documents are, and lag, rate and model version of each stage.

    Example: captionstream status --data-dir .captionstream/stack
    """
    settings = settings_of(data_dir)
    client, state = open_state(settings)
    pipeline = declared_pipeline(settings, client)
    store = open_documents(settings, client, pipeline)
    now = read_status(store, state)
    if as_json:
        typer.echo(json.dumps(now.as_json(processes_of(pipeline))))
        return
    out.print(_documents_line(now))
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "ready", "lag", "docs/s", "model version", "endpoint"):
        table.add_column(column, justify="right" if column in ("lag", "docs/s") else "left")
    stages = now.as_json(processes_of(pipeline))["stages"]
    for name, row in stages.items():
        versions = " ".join(row["versions"].values()) or "-"
        ready = f"{row['ready']}/{row['processes']}"
        lag = "-" if row["lag"] is None else str(row["lag"])
        table.add_row(name, ready, lag, str(row["rate"]), versions, " ".join(row["urls"]))
    out.print(table)
    for name, row in stages.items():
        for reason in sorted(set(row["reasons"])):
            out.print(f"{name}: {reason}", markup=False)
    for model, problem in now.problems.items():
        out.print(f"{model}: {problem}", markup=False)
    for refusal in now.refused:
        out.print(refusal, markup=False)


def wait(
    timeout: Annotated[float, typer.Option(help="Seconds; exit code 1 when they are over.")] = 600,
    data_dir: DataDir = None,
) -> None:
    """Wait until no document is pending, or those that are can take no output.

    Example: captionstream wait --timeout 60
    """
    settings = settings_of(data_dir)
    client, state = open_state(settings)
    pipeline = declared_pipeline(settings, client)
    store = open_documents(settings, client, pipeline)
    with err.status("waiting") as spinner:
        is_settled = wait_until_settled(
            store,
            state,
            timeout_seconds=timeout,
            watch=lambda now: spinner.update(_documents_line(now)),
        )
    now = read_status(store, state)
    out.print(_documents_line(now))
    for model, problem in now.problems.items():
        err.print(f"{model}: {problem}", markup=False)
    for refusal in now.refused:
        err.print(refusal, markup=False)
    if not is_settled:
        err.print(
            f"{now.documents[DocumentState.PENDING]} still pending: see `captionstream status` for"
            " lag and `captionstream doctor` for causes"
        )
        raise typer.Exit(1)


@topics.command("create")
def topics_create(data_dir: DataDir = None) -> None:
    """Create the topics that are missing.

    Example: captionstream topics create
    """
    settings = settings_of(data_dir)
    pipeline = declared_pipeline(settings, open_state(settings)[0])
    created = create_topics(settings.kafka, pipeline)
    out.print("\n".join(created) if created else "all topics exist")
    if warning := warning_of_copies(read_topic_states(settings.kafka, pipeline)):
        err.print(warning, markup=False)


@dead_letters.command("list")
def dead_letters_list(
    stage: Annotated[str | None, typer.Option(help="Only of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this error.")] = None,
    item: Annotated[str | None, typer.Option("--id", help="Of this document, or this one.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most that are shown, the oldest first.  [all]")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters that were not replayed.

    Example: captionstream dead-letters list --reason InvalidImage
    """
    wanted = _wanted(stage, reason, item)
    settings = settings_of(data_dir)
    topics = declared_pipeline(settings, open_state(settings)[0]).topics
    with closing(DeadLetterLog(settings.kafka, topics)) as log:
        log.refresh()
        for entry in log.entries(wanted, most=-1 if limit is None else limit):
            row = entry._asdict()
            text = json.dumps(row) if as_json else "  ".join(str(value) for value in row.values())
            typer.echo(text)
        counts = log.count(wanted)
        unread, problem = log.unread
    if unread:
        err.print(f"{unread} records cannot be read, the last because {problem}", markup=False)
    if not as_json:
        summary = ", ".join(f"{n} x {s} {r}" for n, s, r in counts)
        total = sum(n for n, *_ in counts)
        typer.echo(f"{total} dead letters" + (f": {summary}" if summary else ""))


@dead_letters.command("replay")
def dead_letters_replay(
    stage: Annotated[str | None, typer.Option(help="Only of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this error.")] = None,
    item: Annotated[str | None, typer.Option("--id", help="Of this document, or this one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters to their topic again.

    Example: captionstream dead-letters replay --stage clip
    """
    settings = settings_of(data_dir)
    wanted = _wanted(stage, reason, item)
    topics = declared_pipeline(settings, open_state(settings)[0]).topics
    with closing(DeadLetterLog(settings.kafka, topics)) as log:
        log.refresh()
        _release(log, wanted, settings)
        out.print(f"{replay(log, wanted, settings)} dead letters replayed")


def _release(log: DeadLetterLog, wanted: Wanted, settings: Settings) -> None:
    """A poison message stays in quarantine, and would fail again without being run."""
    state = None
    for entry in log.entries(wanted):
        if entry.reason not in _FATAL:
            continue
        if state is None:
            _, state = open_state(settings)
        with suppress(InvalidEvent):  # a letter of nobody's document
            Quarantine(state, entry.stage).release_document(document_id_of(entry.document.encode()))


def _wanted(stage: str | None, reason: str | None, item: str | None) -> Wanted:
    if item is None:
        return Wanted(stage=stage, reason=reason)
    document_id = parse_id(item)
    # MongoDB distinguishes 5, 5 as a long and 5.0 by their types alone; a user does not.
    same = [Int64(document_id), float(document_id)] if isinstance(document_id, int) else []
    keys = [document_key(value).decode() for value in (document_id, *same)]
    return Wanted(stage=stage, reason=reason, letter=item, documents=keys)


def _documents_line(now: Status) -> str:
    counts = now.documents
    return (
        f"{now.total} documents: {counts[DocumentState.CAPTIONED]} captioned,"
        f" {counts[DocumentState.AWAITING_MODEL]} awaiting a model,"
        f" {counts[DocumentState.PENDING]} pending, {counts[DocumentState.FAILED]} failed"
    )
