"""Prometheus figures of the retraining job, as a file for node_exporter's textfile collector.

A job that ops schedule does not live long enough to be scraped.
"""

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from streams.errors import SettingsError
from trainer.job.runs import Outcome, Run


def write_job_metrics(path: Path, run: Run, *, last_success: Run | None) -> None:
    """Write the figures of a job; the file appears whole or not at all.

    Args:
        path: A file in the collector's directory; its name ends in `.prom`.
        run: The job that has just ended.
        last_success: The latest job that did all that there was to do.

    Raises:
        SettingsError: The file cannot be written.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"captionstream_trainer_{name}", text, ["model", *labels], registry=registry)

    ended = run.started_at.timestamp() + run.seconds
    gauge("last_run_timestamp_seconds", "When the last job ended.").labels(run.model).set(ended)
    gauge("last_run_duration_seconds", "How long the last job took.").labels(run.model).set(
        run.seconds
    )
    gauge("last_run_documents", "Usable documents in its snapshot.").labels(run.model).set(
        run.documents
    )
    results = gauge("last_run_result", "1 for how the last job ended, 0 for the others.", "result")
    for outcome in Outcome:
        results.labels(run.model, outcome.value).set(float(outcome is run.outcome))
    if last_success is not None:
        ended = last_success.started_at.timestamp() + last_success.seconds
        gauge(
            "last_success_timestamp_seconds",
            "When a job last did all that there was to do (promoted, kept or nothing new).",
        ).labels(run.model).set(ended)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), registry)
    except OSError as exc:
        msg = f"cannot write --metrics-file {path}: {exc.strerror}"
        raise SettingsError(msg) from exc
