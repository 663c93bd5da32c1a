"""Commands that need no running stack: help, and clear errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import trainer.cli
from streams.cli import app

COMMAND = [sys.executable, "-m", "streams.cli"]


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(typer.main.get_command(app)))


def test_there_are_these_commands_and_no_others():
    names = {" ".join(path) for path in ALL}
    assert names == {
        "up",
        "run",
        "insert",
        "import-coco",
        "show",
        "apply",
        "status",
        "wait",
        "reconcile",
        "verify",
        "roles",
        "doctor",
        "topics create",
        "pipeline show",
        "pipeline plan",
        "pipeline apply",
        "pipeline activate",
        "pipeline deactivate",
        "pipeline forget",
        "dead-letters list",
        "dead-letters replay",
        "models list",
        "models show",
        "models promote",
        "models rollback",
    }


@pytest.mark.parametrize("page", ["README.md", "deploy/README.md"])
def test_commands_that_pages_name_exist(page):
    text = (Path(__file__).parents[2] / page).read_text()
    named = re.findall(r"\b(captionstream(?:-trainer)?)[ \n]([a-z]\S*[a-z])", text)
    assert len(named) > 10
    programs = {"captionstream": app, "captionstream-trainer": trainer.cli.app}
    known = {n: typer.main.get_command(a).commands.keys() for n, a in programs.items()}
    assert [(name, command) for name, command in named if command not in known[name]] == []


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
def test_help_of_every_command_has_an_example_that_names_it(path):
    assert f"captionstream {' '.join(path)}" in ALL[path].help


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["status", "--data-dir", "nowhere"], {}, "no stack is ready in nowhere"),
        (["status"], {"CAPTIONSTREAM_MONGO__URI": "mongodb://"}, "not a usable MongoDB URI"),
        (
            ["status"],
            {
                "CAPTIONSTREAM_MONGO__URI": "mongodb://127.0.0.1:1/",
                "CAPTIONSTREAM_MONGO__TIMEOUT_SECONDS": "0.5",
            },
            "check that the replica set has a primary",
        ),
        (["status"], {"CAPTIONSTREAM_KAFKA__PARTITIONS": "x"}, "CAPTIONSTREAM_KAFKA__PARTITIONS"),
        (
            ["import-coco", "--annotations", "gone.json", "--images", "."],
            {},
            "cannot read annotations gone.json",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_argument_or_dead_server_is_one_line_and_exit_code_2(arguments, environment, message):
    done = run(*arguments, **environment)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert done.stderr.startswith("captionstream: ")
    assert len(done.stderr.splitlines()) == 1
