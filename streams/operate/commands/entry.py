"""Running a command line: errors are one line and exit code 2, never a traceback."""

import sys
import traceback

import typer

from streams.errors import CaptionstreamError, bounded


def run_app(app: typer.Typer) -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    name = app.info.name
    command = typer.main.get_command(app)
    try:
        # Otherwise a wrong argument takes four lines.
        code = command.main(prog_name=name, standalone_mode=False)
    except typer.Abort:
        sys.exit(1)
    except CaptionstreamError as exc:
        typer.echo(f"{name}: {exc}", err=True)
        sys.exit(2)
    except Exception as exc:
        typer.echo(_usage(exc, name) or f"{name}: {_bug(exc)}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(exc: Exception, name: str | None) -> str:
    """Return what is wrong with the arguments; "" if that is not what it is about.

    typer has the classes of these errors from click, or from a copy of it that it carries.
    """
    if not hasattr(exc, "format_message"):
        return ""
    message = str(exc.format_message())
    if type(exc).__name__ == "NoArgsIsHelpError":
        return message
    context = getattr(exc, "ctx", None)
    help_ = f"; see `{context.command_path} --help`" if context else ""
    return f"{name}: {bounded(' '.join(message.split()).rstrip('.'))}{help_}"


def _bug(exc: Exception) -> str:
    """Return one line that helps to find a bug of ours."""
    where = traceback.extract_tb(exc.__traceback__)[-1]
    return (
        f"internal error at {where.filename}:{where.lineno}:"
        f" {type(exc).__name__}: {bounded(str(exc))}; please report it"
    )
