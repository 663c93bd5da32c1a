"""A command line in the test's own process, as `main` runs it."""

import logging
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import structlog

from streams.operate.commands.entry import run_app
from streams.settings import ENVIRONMENT_PREFIX, child_environment


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs commands, in the environment that gives them the settings, if any are given."""

    def __init__(self, app, monkeypatch, capsys, settings=None):
        self._app = app
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        #: What is to be done when the command's process would end.
        self._endings = []
        endings = SimpleNamespace(register=self._endings.append)
        monkeypatch.setattr("streams.operate.commands.context.atexit", endings)
        for name, value in child_environment(settings).items() if settings else ():
            if name.startswith(ENVIRONMENT_PREFIX):
                monkeypatch.setenv(name, value)

        # The log of the test's own process stays as it is: loggers that were used keep what they
        # were told first.
        monkeypatch.setattr(structlog, "configure", lambda **_: None)
        monkeypatch.setattr(structlog.contextvars, "bind_contextvars", lambda **_: None)
        root = logging.getLogger()
        monkeypatch.setattr(root, "handlers", root.handlers)
        monkeypatch.setattr(root, "level", root.level)

    def __call__(self, *arguments):
        self._monkeypatch.setattr(sys, "argv", ["captionstream", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_app(self._app)
        while self._endings:
            self._endings.pop()()
        printed = self._capsys.readouterr()
        return Done(ended.value.code, printed.out, printed.err)
