"""One process of the pipeline, as `captionstream run` starts it."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from streams.local.ports import free_port
from streams.settings import HttpSettings, Settings, child_environment


class Process(subprocess.Popen):
    """A running process; its metrics can be asked for."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._port = free_port()
        own = settings.model_copy(update={"http": HttpSettings(port=self._port)})
        super().__init__(
            [sys.executable, "-m", "streams.cli", "run", name],
            env=child_environment(own),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def metric(self, name: str) -> float | None:
        """Return the sum of a metric over its labels; None until it serves its endpoints."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return None
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@contextmanager
def running(name: str, settings: Settings) -> Iterator[Process]:
    """A process, killed at the end of the context if it is still there."""
    with Process(name, settings) as process:
        try:
            yield process
        finally:
            process.kill()
