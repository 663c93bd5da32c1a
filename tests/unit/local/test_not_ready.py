"""A process that is not ready says why, through `up`, to whoever started it."""

from streams.endpoints import Answers, Check, serve_endpoints
from streams.local.probe import Health, Prober, _ask
from streams.local.worker import Worker
from streams.settings import HttpSettings, Settings

REASON = "this process has clip B, but A serves: promote it"


def test_reason_of_a_process_that_stays_not_ready_is_said_once(tmp_path):
    """Fails without `_say_why_it_waits`: `up` waited without a word for a command of its user."""
    said = []
    prober = Prober()
    worker = Worker(
        "clip", [], Settings(), port=1, directory=tmp_path, prober=prober, say=said.append
    )
    worker._health = health = prober.watch("clip", "127.0.0.1", 1)
    health.reason, health.reason_since = REASON, 100.0
    for now in (101.0, 106.0, 107.0):
        worker._say_why_it_waits(now)
    assert said == [f"clip is not ready: {REASON}"]
    health.reason = ""
    worker._say_why_it_waits(108.0)
    health.reason, health.reason_since = REASON, 109.0
    worker._say_why_it_waits(120.0)
    assert len(said) == 2


def test_prober_hears_the_reason():
    ready = Check(is_ok=False, reason=REASON)
    answers = Answers(health=lambda: Check(is_ok=True), readiness=lambda: ready)
    endpoints = serve_endpoints(HttpSettings(port=0), answers)
    port = int(endpoints.url.rsplit(":", 1)[1])
    health = Health(host="127.0.0.1", port=port, started_at=0.0)
    _ask(health)
    since = health.reason_since
    assert (health.is_ready, health.reason) == (False, REASON)
    _ask(health)
    assert health.reason_since == since
    ready = Check(is_ok=True)
    _ask(health)
    assert (health.is_ready, health.reason) == (True, "")
    endpoints.close()
