"""The command `roles`: what each process must be allowed to do in MongoDB."""

import json

import typer

from streams.mongo.roles import roles as roles_of
from streams.mongo.roles import script
from streams.operate.commands.context import AsJson
from streams.settings import load_settings


def roles(as_json: AsJson = False) -> None:
    """Print the MongoDB roles of all processes, as a script for mongosh; nothing is changed.

    Example: captionstream roles | mongosh "mongodb://admin@db/?replicaSet=rs0"
    """
    granted = roles_of(load_settings().mongo)
    typer.echo(json.dumps(granted) if as_json else script(granted))
