"""Does something again and again, from a thread of its own that no error ends unseen."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Final

from structlog import get_logger

from streams import metrics
from streams.errors import Unavailable

log = get_logger(__name__)

#: How long `stop` waits for a look that is under way.
_STOP_SECONDS: Final = 5.0


def end_in_good_order() -> None:
    """Do what an operator's SIGTERM does: the batch in hand is finished, the group is left."""
    os.kill(os.getpid(), signal.SIGTERM)


class Follower:
    """Calls `look` until it is stopped. No error ends it: what comes later would not be seen."""

    def __init__(
        self, look: Callable[[], None], *, name: str, seconds: float, at_once: bool = False
    ) -> None:
        """Keep what is needed.

        Args:
            look: What is called.
            name: What is looked at or done, for logs and metrics.
            seconds: Pause between two looks.
            at_once: Whether to begin without a pause.
        """
        self._look = look
        self._name = name
        self._seconds = seconds
        self._first_pause = 0.0 if at_once else seconds
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-follower", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        pause = self._first_pause
        while not self._stop.wait(pause):
            pause = self._seconds
            try:
                self._look()
            except Unavailable as exc:
                log.warning("a server is away", follower=self._name, error=str(exc))
            except Exception as exc:
                self._note(exc)
            else:
                self._failure = ""

    def _note(self, exc: Exception) -> None:
        """Count a fault of ours; one that comes again and again is logged once."""
        metrics.FOLLOWER_ERRORS.labels(self._name).inc()
        if self._failure != repr(exc):
            self._failure = repr(exc)
            log.exception("unexpected error; it is tried again", follower=self._name)
