"""The command `roles`: what each process must be allowed to do in MongoDB."""

import json
from pathlib import Path
from typing import Annotated

import typer

from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from streams.mongo.roles import roles as roles_of
from streams.mongo.roles import script
from streams.operate.commands.context import AsJson
from streams.operate.pipeline_file import read_pipeline_file
from streams.settings import load_settings


def roles(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A pipeline, as `pipeline show --yaml` prints it; without it, the default one.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the MongoDB roles of all processes, as a script for mongosh; nothing is changed.

    Nothing is connected to, so that the roles can be there before anything else.

    Example: captionstream roles | mongosh "mongodb://admin@db/?replicaSet=rs0"
    """
    pipeline = DEFAULT if file is None else compile_pipeline(read_pipeline_file(file))
    granted = roles_of(load_settings().mongo, pipeline)
    typer.echo(json.dumps(granted) if as_json else script(granted))
