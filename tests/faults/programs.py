"""A mongod that is started with more options than the product gives it."""

import shlex
from pathlib import Path

from streams.local.mongod import find_mongod
from streams.settings import Settings

#: Enables `failCommand`.
TEST_COMMANDS = ("--setParameter", "enableTestCommands=1")


def write_mongod(directory: Path, *options: str) -> Path:
    """Write a program that is mongod with these options; return its path."""
    program = directory / "mongod.sh"
    mongod = shlex.quote(str(find_mongod(Settings().local)))
    program.write_text(f'#!/bin/sh\nexec {mongod} "$@" {shlex.join(options)}\n')
    program.chmod(0o700)
    return program
