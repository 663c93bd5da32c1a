"""What every command needs: settings of the stack it talks to, connections, and printing."""

import atexit
from pathlib import Path
from typing import Annotated, Any

import typer
from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console

from streams.local.stack import read_stack, settings_for
from streams.mongo import connect, mongo_errors, state_database
from streams.settings import Settings, load_settings
from streams.store import DocumentStore

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


def open_documents(settings: Settings, client: MongoClient[dict[str, Any]]) -> DocumentStore:
    """Return the documents, ready to be counted.

    The state index is made only where documents are: in a database whose name is mistyped it would
    create the collection.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    store = DocumentStore(client, settings.mongo)
    with mongo_errors("looking for documents"):
        is_empty = store.collection.find_one({}, {"_id": 1}) is None
    if not is_empty:
        store.prepare()
    return store
