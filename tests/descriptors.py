"""File descriptors that this process holds open."""

import os
from contextlib import suppress
from pathlib import Path

import psutil


def descriptors(target: str) -> set[int]:
    """Return ends of pipes between processes and threads, and what is open on a target so begun.

    Only these kinds: clients of other tests in this process may open and close connections
    meanwhile.
    """
    found = {each.fd for each in psutil.Process().net_connections("unix")}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was that of the listing
            if os.readlink(entry).startswith(target):
                found.add(int(entry.name))
    return found
