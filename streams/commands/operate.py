"""Commands that watch and steer the pipeline: status, wait, dead letters, topics."""

import json
from collections import Counter
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.table import Table

from streams.commands.context import (
    AsJson,
    DataDir,
    err,
    open_documents,
    open_state,
    out,
    settings_of,
)
from streams.commands.ids import parse_id
from streams.dead_letter_log import Entry, list_dead_letters, replay
from streams.errors import InvalidEvent, ModelCrashed, ModelHung
from streams.settings import Settings
from streams.stages import PROCESSES
from streams.stages.suspects import Suspects
from streams.states import DocumentState
from streams.status import Status, read_status, wait_until_settled
from streams.topics import create_topics

dead_letters = typer.Typer(help="Records that could not be processed.", no_args_is_help=True)
topics = typer.Typer(help="Topics on the broker.", no_args_is_help=True)

_FATAL: Final = (ModelHung.__name__, ModelCrashed.__name__)


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how far the documents are, and lag, rate and model version of each stage.

    Example: captionstream status --data-dir .captionstream/stack
    """
    settings = settings_of(data_dir)
    client, state = open_state(settings)
    store = open_documents(settings, client)
    now = read_status(store, state)
    if as_json:
        typer.echo(json.dumps(now.as_json(PROCESSES)))
        return
    out.print(_documents_line(now))
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "ready", "lag", "docs/s", "model version", "endpoint"):
        table.add_column(column, justify="right" if column in ("lag", "docs/s") else "left")
    for name, row in now.as_json(PROCESSES)["stages"].items():
        versions = " ".join(row["versions"].values()) or "-"
        ready = f"{row['ready']}/{row['processes']}"
        lag = "-" if row["lag"] is None else str(row["lag"])
        table.add_row(name, ready, lag, str(row["rate"]), versions, " ".join(row["urls"]))
    out.print(table)
    for name, row in now.as_json(PROCESSES)["stages"].items():
        for reason in row["reasons"]:
            out.print(f"{name} is not ready: {reason}", markup=False)
    for model, problem in now.problems.items():
        out.print(f"{model}: {problem}", markup=False)


def wait(
    timeout: Annotated[float, typer.Option(help="Seconds; exit code 1 when they are over.")] = 600,
    data_dir: DataDir = None,
) -> None:
    """Wait until no document is pending.

    Example: captionstream wait --timeout 60
    """
    settings = settings_of(data_dir)
    client, state = open_state(settings)
    store = open_documents(settings, client)
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
    if not is_settled:
        err.print(
            f"still pending after {timeout:.0f} s: see `captionstream status` for lag and"
            " `captionstream doctor` for causes"
        )
        raise typer.Exit(1)


@topics.command("create")
def topics_create(data_dir: DataDir = None) -> None:
    """Create the topics that are missing.

    Example: captionstream topics create
    """
    created = create_topics(settings_of(data_dir).kafka)
    out.print("\n".join(created) if created else "all topics exist")


@dead_letters.command("list")
def dead_letters_list(
    stage: Annotated[str | None, typer.Option(help="Only of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this error.")] = None,
    item: Annotated[str | None, typer.Option("--id", help="Of this document, or this one.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters that were not replayed.

    Example: captionstream dead-letters list --reason InvalidImage
    """
    entries = _select(list_dead_letters(settings_of(data_dir).kafka), stage, reason, item)
    for entry in entries:
        letter = entry.letter
        key = (letter.key or b"").decode(errors="replace")
        row = {
            "id": entry.id,
            "document": key,
            "stage": letter.stage,
            "reason": letter.error.type,
            "attempts": letter.error.attempts,
            "at": letter.at.isoformat(timespec="seconds"),
            "message": letter.error.message,
        }
        text = json.dumps(row) if as_json else "  ".join(str(value) for value in row.values())
        typer.echo(text)
    if not as_json:
        reasons = Counter((e.letter.stage, e.letter.error.type) for e in entries)
        summary = ", ".join(f"{n} x {s} {r}" for (s, r), n in reasons.most_common())
        typer.echo(f"{len(entries)} dead letters" + (f": {summary}" if summary else ""))


@dead_letters.command("replay")
def dead_letters_replay(
    stage: Annotated[str | None, typer.Option(help="Only of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this error.")] = None,
    item: Annotated[str | None, typer.Option("--id", help="Of this document, or this one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters to their topic again.

    Example: captionstream dead-letters replay --stage featurize
    """
    settings = settings_of(data_dir)
    entries = _select(list_dead_letters(settings.kafka), stage, reason, item)
    _pardon(entries, settings)
    out.print(f"{replay(entries, settings)} dead letters replayed")


def _pardon(entries: list[Entry], settings: Settings) -> None:
    """What a model did not survive is remembered, and would fail again without being tried."""
    fatal = [entry.letter for entry in entries if entry.letter.error.type in _FATAL]
    if not fatal:
        return
    _, state = open_state(settings)
    for letter in fatal:
        with suppress(InvalidEvent):  # a letter of nobody's document
            Suspects(state, letter.stage).pardon(letter.document_id)


def _select(
    entries: list[Entry], stage: str | None, reason: str | None, item: str | None
) -> list[Entry]:
    def is_wanted(entry: Entry) -> bool:
        return (
            (stage is None or entry.letter.stage == stage)
            and (reason is None or entry.letter.error.type == reason)
            and (item is None or entry.id == item or _is_about(entry, item))
        )

    return [entry for entry in entries if is_wanted(entry)]


def _is_about(entry: Entry, item: str) -> bool:
    try:
        return bool(entry.letter.document_id == parse_id(item))
    except InvalidEvent:
        return False


def _documents_line(now: Status) -> str:
    counts = now.documents
    return (
        f"{now.total} documents: {counts[DocumentState.CAPTIONED]} captioned,"
        f" {counts[DocumentState.AWAITING_MODEL]} awaiting a model,"
        f" {counts[DocumentState.PENDING]} pending, {counts[DocumentState.FAILED]} failed"
    )
