"""Commands that run things: the whole stack, or one process of it."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from streams.errors import SettingsError
from streams.local.supervisor import run_stack
from streams.logs import configure_logging
from streams.mongo.client import without_password
from streams.settings import load_settings, server_list


def up(
    data_dir: Annotated[
        Path, typer.Option(help="Where servers, logs and state live; nothing is written elsewhere.")
    ] = Path(".captionstream/stack"),
    mongo_uri: Annotated[
        str | None, typer.Option(help="Use this MongoDB replica set, start none.")
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(help="Use the broker at HOST:PORT, start none.")
    ] = None,
) -> None:
    """Start MongoDB, a broker, the publisher and all stages; stop with Ctrl-C.

    Prints one line of JSON when everything is ready.

    Example: CAPTIONSTREAM_CLIP__PRETRAINED=random captionstream up
    """
    if mongo_uri is not None and without_password(mongo_uri) != mongo_uri:
        msg = (
            "--mongo-uri names a user: arguments can be read by everybody here; leave the"
            " user away and set CAPTIONSTREAM_MONGO__USERNAME and CAPTIONSTREAM_MONGO__PASSWORD"
        )
        raise SettingsError(msg)
    try:
        kafka = None if kafka is None else server_list(kafka)
    except ValueError as exc:
        msg = f"--kafka: {exc}"
        raise SettingsError(msg) from exc
    settings = load_settings()
    configure_logging(settings.log.model_copy(update={"format": "console"}), process="up")
    raise typer.Exit(
        run_stack(settings, data_dir=data_dir, mongo_uri=mongo_uri, kafka=kafka, out=sys.stdout)
    )


def run(
    name: Annotated[
        str, typer.Argument(help="`publisher`, `sink`, or a model of the declared pipeline.")
    ],
) -> None:
    """Run one process against the servers of the environment, until SIGTERM.

    Example: captionstream run clip
    """
    # Until the process has handlers of its own there is nothing to finish.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from streams.app import run_process  # noqa: PLC0415 - Faust, which no other command needs

    settings = load_settings()
    configure_logging(settings.log, process=name)
    run_process(name, settings)
