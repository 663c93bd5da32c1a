"""The publisher's process: publisher and reconciler, endpoints, report, signals."""

import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from structlog import get_logger

from streams import metrics
from streams.capture.publisher import Publisher
from streams.capture.sender import Sender
from streams.contract.pipeline import Pipeline
from streams.endpoints import Answers, Check, Endpoints
from streams.mongo.client import connect, state_database
from streams.mongo.processes import Rate, Report, Reporter, is_loaded, read_reports
from streams.reconcile.reconciler import Reconciler
from streams.registry.versions import Registry
from streams.settings import Settings

log = get_logger(__name__)


def run_publisher(
    settings: Settings,
    pipeline: Pipeline,
    endpoints: Endpoints,
    answers: Answers,
    *,
    revision: Callable[[], int],
) -> None:
    """Publish and reconcile until SIGTERM or SIGINT. To be called in the main thread.

    Args:
        settings: All settings.
        pipeline: What is declared.
        endpoints: Serve already.
        answers: What they answer.
        revision: Of the pipeline, for the report.

    Raises:
        SettingsError: A setting is wrong.
        CaptureError: The stored position is damaged.
    """
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    client = connect(settings.mongo)
    state = state_database(client, settings.mongo)
    registry = Registry(state)
    publisher = Publisher(settings, client, pipeline)
    reconciler = Reconciler(
        settings,
        client,
        pipeline,
        serving=lambda: registry.serving(pipeline),
        is_loaded=lambda serving: is_loaded(serving.versions, read_reports(state)),
        live_changes=lambda: publisher.published,
        lease=lambda: publisher.lease,
    )
    repeating = threading.Thread(
        target=reconciler.run,
        args=(stop,),
        name="reconciler",
        daemon=True,
    )

    def readiness() -> Check:
        return _readiness(publisher, settings.stage.slow_seconds)

    answers.readiness = readiness
    answers.health = lambda: _health(publisher, reconciler, repeating, settings.stage.stall_seconds)
    rate = Rate()
    report = partial(_report, publisher, endpoints.url, rate)
    reporter = Reporter(state, lambda: report(readiness(), revision()))
    reporter.start()
    measure(publisher)
    repeating.start()
    try:
        publisher.run(stop)
    finally:
        stop.set()
        repeating.join(timeout=10)
        reporter.stop()
        client.close()


def measure(publisher: Publisher) -> None:
    """Have the gauges of a publisher computed when they are asked for: they never stand still."""

    def of_sender(value: Callable[[Sender], float]) -> Callable[[], float]:
        return lambda: value(sender) if (sender := publisher.sender) else 0.0

    metrics.SOURCE_LAG.set_function(lambda: publisher.source_lag_seconds)
    metrics.WINDOW_EVENTS.set_function(of_sender(lambda sender: sender.events))
    metrics.WINDOW_BYTES.set_function(of_sender(lambda sender: sender.bytes))
    metrics.WINDOW_OLDEST_SECONDS.set_function(of_sender(lambda sender: sender.oldest_seconds))


def _health(
    publisher: Publisher, reconciler: Reconciler, repeating: threading.Thread, stall_seconds: float
) -> Check:
    if repeating.ident is not None and not repeating.is_alive():
        return Check(is_ok=False, reason="the reconciler's thread has ended; see the log")
    broken_since = reconciler.broken_since
    if broken_since is not None and time.monotonic() - broken_since > stall_seconds:
        return Check(is_ok=False, reason="the reconciler fails again and again; see the log")
    idle = time.monotonic() - publisher.last_tick
    if idle > stall_seconds:
        return Check(is_ok=False, reason=f"the publisher did nothing for {idle:.0f} s")
    return Check(is_ok=True)


def _readiness(publisher: Publisher, slow_seconds: float) -> Check:
    waited = sender.oldest_seconds if (sender := publisher.sender) else 0.0
    if waited > slow_seconds:
        reason = f"the broker has acknowledged nothing for {waited:.0f} s"
        return Check(is_ok=False, reason=reason)
    if publisher.waits_for:
        return Check(is_ok=False, reason=f"waits for {publisher.waits_for}")
    return Check(is_ok=True, reason="leads" if publisher.is_leading else "stands by")


def _report(publisher: Publisher, url: str, rate: Rate, ready: Check, revision: int) -> Report:
    return Report(
        stage="publisher",
        url=url,
        is_ready=ready.is_ok,
        reason="" if ready.is_ok else ready.reason,
        lag=publisher.in_flight,
        documents=publisher.published,
        rate=rate.update(publisher.published),
        in_flight=publisher.in_flight,
        revision=revision,
    )
