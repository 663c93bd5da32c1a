"""Waiting for a condition with a deadline; no test sleeps for a fixed time."""

import threading
import time
from collections.abc import Callable
from typing import Any

#: Generous: only a failure reaches it.
DEADLINE_SECONDS = 200.0


def wait_until(
    predicate: Callable[[], Any],
    deadline_seconds: float = DEADLINE_SECONDS,
    *,
    doing: str = "waiting",
    pause_seconds: float = 0.05,
) -> Any:
    """Return what `predicate` returns once that is true; fail when the deadline is over.

    Args:
        predicate: Asked again and again.
        deadline_seconds: Generous: it is only reached by a failure.
        doing: Said in the failure.
        pause_seconds: Between two questions.
    """
    pause = threading.Event()
    deadline = time.monotonic() + deadline_seconds
    while not (found := predicate()):
        if time.monotonic() > deadline:
            msg = f"{doing}: not done after {deadline_seconds:g} s"
            raise AssertionError(msg)
        pause.wait(pause_seconds)
    return found
