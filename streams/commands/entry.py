"""Running a command line: errors are one line and exit code 2, never a traceback."""

import sys
import traceback

import typer

from streams.errors import CaptionstreamError


def run_app(app: typer.Typer) -> None:
    """Run the command that the arguments name."""
    name = app.info.name
    try:
        app()
    except CaptionstreamError as exc:
        typer.echo(f"{name}: {exc}", err=True)
        sys.exit(2)
    except Exception as exc:  # a bug of ours; one line that helps to find it
        where = traceback.extract_tb(exc.__traceback__)[-1]
        typer.echo(
            f"{name}: internal error at {where.filename}:{where.lineno}:"
            f" {type(exc).__name__}: {exc}; please report it",
            err=True,
        )
        sys.exit(2)
