"""However a command ends, people read one line and programs an exit code."""

import pytest
import typer

import streams.cli
import trainer.cli
from streams.errors import LONGEST_MESSAGE, SettingsError
from tests.command_line import CommandLine

CLIS = {"captionstream": streams.cli.app, "captionstream-trainer": trainer.cli.app}


def made_of(command, monkeypatch, capsys):
    app = typer.Typer(name="captionstream", add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return CommandLine(app, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("cli", "arguments", "message"),
    [
        ("captionstream", "status --bogus", "No such option: --bogus; see `captionstream status"),
        ("captionstream", "frobnicate", "No such command 'frobnicate'; see `captionstream --help`"),
        ("captionstream", "models promote", "Missing argument"),
        ("captionstream", "wait --timeout soon", "Invalid value for '--timeout'"),
        ("captionstream", "models rollback x --recaption y", "'all', 'stale', 'none'"),
        ("captionstream", "up --kafka broker:abc", "--kafka: 'broker:abc' is not host:port"),
        (
            "captionstream-trainer",
            "fit --bogus",
            "No such option: --bogus (Possible options: --loss)",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(monkeypatch, capsys, cli, arguments, message):
    """Fails without `standalone_mode=False`."""
    done = CommandLine(CLIS[cli], monkeypatch, capsys)(*arguments.split())
    assert (done.code, done.out) == (2, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"{cli}: ")
    assert message in line


@pytest.mark.parametrize("arguments", ["--help", "status --help", "models promote --help"])
def test_help_is_no_error(monkeypatch, capsys, arguments):
    done = CommandLine(streams.cli.app, monkeypatch, capsys)(*arguments.split())
    assert (done.code, done.err) == (0, "")
    assert "Usage: " in done.out


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_no_command_shows_those_that_there_are(monkeypatch, capsys, arguments):
    done = CommandLine(streams.cli.app, monkeypatch, capsys)(*arguments)
    assert done.code == 2
    assert "Commands:\n" in done.out + done.err


@pytest.mark.parametrize(
    ("end", "code"), [(KeyboardInterrupt, 130), (typer.Exit(1), 1), (typer.Exit(), 0)]
)
def test_exit_code_of_a_command_is_that_of_the_process(monkeypatch, capsys, end, code):
    """Fails when what `main` returns is dropped."""

    def command():
        raise end

    done = made_of(command, monkeypatch, capsys)()
    assert (done.code, done.err) == (code, "")


@pytest.mark.parametrize("kind", [ValueError, SettingsError])
def test_message_of_any_length_is_bounded_and_keeps_its_end(monkeypatch, capsys, kind):
    """Fails without `bounded` where the error is made, or where a bug is printed."""

    def command():
        raise kind("x" * 100_000 + "; the remedy")

    done = made_of(command, monkeypatch, capsys)()
    assert done.code == 2
    [line] = done.err.splitlines()
    assert len(line) < LONGEST_MESSAGE + 200
    assert line.removesuffix("; please report it").endswith("; the remedy")


def test_bug_is_one_line_that_says_where(monkeypatch, capsys):
    def command():
        return 1 / 0

    done = made_of(command, monkeypatch, capsys)()
    assert done.code == 2
    [line] = done.err.splitlines()
    assert line.startswith("captionstream: internal error at ")
    assert line.endswith("ZeroDivisionError: division by zero; please report it")
