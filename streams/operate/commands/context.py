"""What every command needs: settings of the stack it talks to, connections, and printing."""

import atexit
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console

from streams.contract.pipeline import Pipeline
from streams.local.stack import read_stack, settings_for
from streams.mongo.client import connect, mongo_errors, state_database
from streams.mongo.declarations import Declarations
from streams.mongo.store import DocumentStore
from streams.settings import Settings, load_settings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Talk to the stack that `captionstream up` runs there; without it, to the servers of"
        " the environment.",
        show_default=False,
    ),
]
#: More would hide what is said before them.
_MOST_NAMED: Final = 20

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def settings_of(data_dir: Path | None) -> Settings:
    """Return the environment's settings, with a running stack's addresses if one is named.

    Raises:
        SettingsError: A setting is wrong, or no stack runs there.
    """
    settings = load_settings()
    return settings if data_dir is None else settings_for(read_stack(data_dir), settings)


def open_state(settings: Settings) -> tuple[MongoClient[dict[str, Any]], Database[dict[str, Any]]]:
    """Return a client, closed when the command ends, and the state database."""
    client = connect(settings.mongo)
    atexit.register(client.close)
    return client, state_database(client, settings.mongo)


def declared_pipeline(settings: Settings, client: MongoClient[dict[str, Any]]) -> Pipeline:
    """Return the pipeline that is declared now.

    Raises:
        InvalidPipeline: It is of another release.
        StoreUnavailable: MongoDB does not answer.
    """
    state = state_database(client, settings.mongo)
    return Declarations(state, settings.mongo.tenant).read().pipeline


def open_documents(
    settings: Settings, client: MongoClient[dict[str, Any]], pipeline: Pipeline
) -> DocumentStore:
    """Return the documents, ready to be counted.

    The state index is made only where documents are: in a database whose name is mistyped it would
    create the collection.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    store = DocumentStore(client, settings.mongo, pipeline)
    with mongo_errors("looking for documents"):
        is_empty = store.collection.find_one({}, {"_id": 1}) is None
    if not is_empty:
        store.prepare()
    return store


class PassedOver:
    """What a command cannot do while it goes on: named, up to a number, and counted."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, what: object) -> None:
        """Print what is passed over and why, unless there were many already."""
        self._count += 1
        if self._count <= _MOST_NAMED:
            _complain(what)

    def end(self) -> None:
        """Print how many there were, and end the command with exit code 2; do nothing if none.

        Raises:
            typer.Exit: There were some.
        """
        if self._count:
            unnamed = self._count - _MOST_NAMED
            _complain(f"passed over: {self._count}{f', {unnamed} unnamed' * (unnamed > 0)}")
            raise typer.Exit(2)


def _complain(what: object) -> None:
    err.print(f"captionstream: {what}", markup=False, soft_wrap=True)
