"""The stack of the demo: started, waited for, ended."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from streams.errors import CaptionstreamError, SettingsError
from streams.local.stack import read_stack
from streams.settings import environment_over

#: The CLIP that the package brings, whatever the shell has set for images of one's own.
_BUNDLED: Final = {
    "CAPTIONSTREAM_CLIP__MODEL": "scenes",
    "CAPTIONSTREAM_CLIP__PRETRAINED": "bundled",
}
#: Only what went wrong; the environment may say otherwise.
_USUAL: Final = {"CAPTIONSTREAM_LOG__LEVEL": "warning"}


def environment() -> dict[str, str]:
    """Return the environment of the demo's programs."""
    return {**environment_over(_USUAL), **_BUNDLED}


@contextmanager
def running_stack(directory: Path, *, keep: bool) -> Iterator[Mapping[str, Any]]:
    """Run `captionstream up` in a new directory; yield its line of JSON.

    What an earlier demo left there is removed. The stack's messages go to `up.log` beside it.

    Raises:
        SettingsError: A stack runs there already, or it does not start.
    """
    _remove_earlier(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.parent / "up.log"
    with log.open("w") as messages:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "streams.cli", "up", "--data-dir", str(directory)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=keep,
        )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            msg = f"the stack did not start: {log.read_text().splitlines()[-1:]} (log: {log})"
            raise SettingsError(msg)
        yield json.loads(line)
    except BaseException:
        _end(process)
        raise
    if not keep:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait()


def _remove_earlier(directory: Path) -> None:
    try:
        pid = read_stack(directory).pids["supervisor"]
    except CaptionstreamError:
        shutil.rmtree(directory, ignore_errors=True)
        return
    msg = f"an earlier demo still runs in {directory}; end it with: kill {pid}"
    raise SettingsError(msg)
