"""Looks at something again and again, from a thread of its own."""

import threading
from collections.abc import Callable
from typing import Final

from structlog import get_logger

from streams.errors import StoreUnavailable

log = get_logger(__name__)

#: How long `stop` waits for a look that is under way.
_STOP_SECONDS: Final = 5.0


class Follower:
    """Calls `look` until it is stopped. No error ends it: what comes later would not be seen."""

    def __init__(self, look: Callable[[], None], *, name: str, seconds: float) -> None:
        """Keep what is needed.

        Args:
            look: What is called.
            name: What is looked at, for logs.
            seconds: Pause between two looks.
        """
        self._look = look
        self._name = name
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-follower", daemon=True)

    def start(self) -> None:
        """Begin, with a pause first."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._look()
            except StoreUnavailable as exc:
                log.warning("pointer not read", model=self._name, error=str(exc))
            except Exception:
                log.exception("pointer not followed", model=self._name)
