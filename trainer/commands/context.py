"""What every command of the trainer needs: where to read, where to write, and printing."""

import atexit
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pymongo import MongoClient
from pymongo.database import Database

from streams.contract.pipeline import Pipeline
from streams.local.stack import read_stack, settings_for
from streams.mongo.client import connect, state_database
from streams.operate.commands.context import AsJson, declared_pipeline, err, out
from streams.settings import Settings, load_settings

__all__ = ["AsJson", "DataDir", "Place", "err", "out", "place_of"]

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Work on the stack that `captionstream up` runs there, and keep the trainer's files"
        " in `trainer` below it; without it, on the servers of the environment.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a command works.

    Attributes:
        settings: Settings, with the addresses of the stack if one was named.
        directory: Directory of the trainer's own files.
    """

    settings: Settings
    directory: Path

    @property
    def pipeline(self) -> Pipeline:
        """The models, as they are declared now; read from MongoDB."""
        client, _ = self.connect()
        return declared_pipeline(self.settings, client)

    def connect(self) -> tuple[MongoClient[dict[str, Any]], Database[dict[str, Any]]]:
        """Return a client, closed when the command ends, and the state database."""
        client = connect(self.settings.mongo)
        atexit.register(client.close)
        return client, state_database(client, self.settings.mongo)


def place_of(data_dir: Path | None) -> Place:
    """Return where a command works.

    Raises:
        SettingsError: A setting is wrong, or no stack runs there.
    """
    settings, directory = load_settings(), None
    if data_dir is not None:
        settings, directory = settings_for(read_stack(data_dir), settings), data_dir / "trainer"
    return Place(settings=settings, directory=directory or Path(settings.trainer.directory))
