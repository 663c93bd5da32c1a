"""Every Prometheus metric, in one table. No document ids in labels, base units only."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 1800),
)
#: Steps of 50 ms where most changes lie: a quantile is off by less than its step.
_END_TO_END_SECONDS: Final = (
    *(0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(1, 1.5, 2.5, 5, 10, 30, 60, 300, 1800),
)
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# --- stages -------------------------------------------------------------------------------------
DOCUMENTS = Counter(
    "captionstream_documents",
    "Events that a stage has finished, by outcome.",
    # done, reused, deleted, awaiting_model, ignored, superseded, postponed, failed
    ["stage", "outcome"],
)
MODEL_CALLS = Counter(
    "captionstream_model_inputs",
    "Documents that a model was run on (reused outputs are not counted).",
    ["model"],
)
STEP_SECONDS = Histogram(
    "captionstream_step_seconds",
    "Time that one batch spent in a stage's step.",
    ["stage"],
    buckets=_LATENCY_SECONDS,
)
BATCH_SIZE = Histogram(
    "captionstream_batch_size_documents",
    "Documents in one batch.",
    ["stage"],
    buckets=_BATCH_SIZES,
)
END_TO_END_SECONDS = Histogram(
    "captionstream_end_to_end_seconds",
    "From a live change, by the primary's clock, to the majority-acknowledged write of an output.",
    ["model"],
    buckets=_END_TO_END_SECONDS,
)
IN_FLIGHT = Gauge(
    "captionstream_in_flight_events", "Events taken and not yet acknowledged.", ["stage"]
)
OLDEST_UNACKED_SECONDS = Gauge(
    "captionstream_oldest_unacknowledged_seconds",
    "Age of the oldest event that is taken and not yet acknowledged; 0 when there is none.",
    ["stage"],
)
STAGE_LAG = Gauge(
    "captionstream_stage_lag_records", "Records waiting in a stage's input.", ["stage"]
)
WRITES = Counter(
    "captionstream_writes",
    "Guarded writes by result; ignored: the guard held, or the document is gone.",
    ["result"],
)
RETRIES = Counter(
    "captionstream_retries", "Attempts after the first, by error.", ["stage", "error"]
)
DEAD_LETTERS = Counter(
    "captionstream_dead_letters", "Records sent to a dead-letter topic.", ["stage", "reason"]
)
WAITING = Gauge(
    "captionstream_stage_waiting",
    "1 while a stage holds its batch because a neighbour or its model is broken.",
    ["stage"],
)

# --- images by URL ------------------------------------------------------------------------------
FETCH_SECONDS = Histogram("captionstream_fetch_seconds", "One fetch of an image by its URL.")
FETCH_FAILURES = Counter(
    "captionstream_fetch_failures",
    "Fetches that failed: refused, status, timeout or connection.",
    ["reason"],
)

# --- models -------------------------------------------------------------------------------------
MODEL_VERSION = Gauge(
    "captionstream_model_version_info", "1 for the version that serves.", ["model", "version"]
)
RELOADS = Counter("captionstream_model_reloads", "Versions swapped in.", ["model"])
REFUSED_RELOADS = Counter(
    "captionstream_model_refused_reloads", "Versions that failed verification.", ["model", "reason"]
)
FAILED_RELOADS = Counter(
    "captionstream_model_failed_reloads",
    "Attempts to load a version that failed through this process's own trouble.",
    ["model", "error"],
)

# --- threads beside the work -----------------------------------------------------------------
FOLLOWER_ERRORS = Counter(
    "captionstream_follower_errors",
    "Unexpected errors of what is done again and again in the background: reports, watchdog, ...",
    ["follower"],
)

# --- capture ------------------------------------------------------------------------------------
CHANGES = Counter("captionstream_changes", "Changes read from the change stream.", ["operation"])
PUBLISHED = Counter("captionstream_published_events", "Events acknowledged by Kafka.", ["origin"])
SKIPPED = Counter("captionstream_skipped_changes", "Changes read that publish nothing.")
PUBLISH_ERRORS = Counter("captionstream_publish_errors", "Events that Kafka refused.", ["error"])
SOURCE_LAG = Gauge(
    "captionstream_source_lag_seconds",
    "Now minus clusterTime of the committed position; 0 while another publisher leads.",
)
WINDOW_EVENTS = Gauge("captionstream_window_events", "Changes sent and not yet acknowledged.")
WINDOW_BYTES = Gauge("captionstream_window_bytes", "Size of those.")
WINDOW_OLDEST_SECONDS = Gauge(
    "captionstream_window_oldest_seconds", "Age of the oldest of those; 0 when there is none."
)
POSITION_COMMITS = Counter("captionstream_position_commits", "Positions committed.")
HISTORY_LOST = Counter(
    "captionstream_history_lost", "Times the oplog no longer reached back to the position."
)
LOG_LOST = Counter(
    "captionstream_log_lost", "Times Kafka's log no longer reached as far as it had acknowledged."
)
RESUMES = Counter("captionstream_stream_opens", "Times the change stream was opened.", ["reason"])
IS_LEADER = Gauge("captionstream_publisher_leader", "1 while this publisher holds the lease.")
LEASE_EPOCH = Gauge("captionstream_publisher_lease_epoch", "Epoch of the lease it holds.")
COPIED = Counter(
    "captionstream_copied_documents",
    "Documents that a copy has looked at; `finished` ones hold all that their image makes.",
    ["result"],
)
RECONCILER_PENDING = Gauge(
    "captionstream_reconciler_stale_documents",
    "Unfinished documents at the last scan; beyond what one takes, a count of the state index.",
)
