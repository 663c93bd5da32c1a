"""One child process: its log, its death with its parent, its end. Knows no protocol."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

#: A log larger than this is put aside when its process starts; one older generation is kept.
_LOG_BYTES: Final = 16 << 20
#: So much of a log is read for an error message; a log may be larger than the memory.
_END_BYTES: Final = 64 << 10
_POLL_SECONDS: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Child:
    """A process that is started, watched and ended by this one, and never outlives it.

    On Linux the kernel kills it when the thread that started it ends, even by SIGKILL; so it is to
    be started from the main thread. It has a session of its own: Ctrl-C in a terminal reaches only
    the parent, which then ends its children in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Describe the process; nothing is started.

        Args:
            name: For messages.
            command: Program and arguments.
            log: File that receives stdout and stderr.
            cwd: Its working directory.
            environment: Its whole environment.
        """
        self.name = name
        self.log = log
        self._command = list(command)
        self._cwd = cwd
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the last start; None before the first."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run, negative for a signal; None while it runs or never ran."""
        return self._process.poll() if self._process else None

    def is_alive(self) -> bool:
        """Return whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it.

        Raises:
            OSError: The program cannot be executed.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(self.log)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - it takes no lock
            )

    def terminate(self) -> None:
        """Ask it to end."""
        if self.is_alive():
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        if self._process is not None:
            self._send(signal.SIGKILL)
            self._process.wait()

    def stop(self, grace_seconds: float) -> bool:
        """End it by SIGTERM, and by SIGKILL when the grace is over.

        Returns:
            Whether SIGTERM was enough.
        """
        self.terminate()
        if wait_until(lambda: not self.is_alive(), grace_seconds):
            return True
        self.kill()
        return False

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log, for an error message; "" if it cannot be read."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _END_BYTES))
                end = log.read(_END_BYTES)
        except OSError:
            return ""
        return "\n".join(end.decode(errors="replace").splitlines()[-count:])

    def _send(self, signum: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signum)  # does nothing once the process is gone


def wait_until(predicate: Callable[[], bool], seconds: float) -> bool:
    """Poll until `predicate` holds; return False when the time is over."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a new child calls to be killed by the kernel when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec as little as possible is done

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return arrange


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))
