"""When the publisher's process asks to be started again."""

import threading
import time
from types import SimpleNamespace

import pytest

from streams.capture.process import _health


@pytest.mark.parametrize(
    ("broken_for", "idle_for", "is_ok"),
    [(None, 0, True), (30, 0, True), (90, 0, False), (None, 90, False)],
)
def test_reconciler_that_fails_on_and_on_is_noticed(broken_for, idle_for, is_ok):
    """Fails without the look at `broken_since`."""
    now = time.monotonic()
    reconciler = SimpleNamespace(broken_since=None if broken_for is None else now - broken_for)
    publisher = SimpleNamespace(last_tick=now - idle_for)
    check = _health(publisher, reconciler, threading.Thread(), 60.0)
    assert check.is_ok is is_ok
