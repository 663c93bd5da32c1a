"""A command line in the test's own process, as `main` runs it."""

import sys
from dataclasses import dataclass

import pytest

from streams.commands.entry import run_app


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs commands; see the fixture `captionstream`."""

    def __init__(self, app, monkeypatch, capsys):
        self._app = app
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments):
        self._monkeypatch.setattr(sys, "argv", ["captionstream", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_app(self._app)
        printed = self._capsys.readouterr()
        return Done(ended.value.code, printed.out, printed.err)
