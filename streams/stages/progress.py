"""The progress of a stage: what `/healthz`, the report and the metrics say about it."""

import time

from streams import metrics


class Progress:
    """What the stage has in hand and when it last made progress. Read by other threads."""

    def __init__(self, stage: str) -> None:
        """Begin with nothing in hand."""
        self._stage = stage
        self._last = self._began = time.monotonic()
        self.in_flight = 0
        self.finished = 0

    @property
    def seconds_since_progress(self) -> float:
        """Seconds since a batch began, ended, or was knowingly waiting."""
        return time.monotonic() - self._last

    @property
    def oldest_seconds(self) -> float:
        """Age of the batch in hand; 0 when there is none."""
        return time.monotonic() - self._began if self.in_flight else 0.0

    def beat(self) -> None:
        """Say that waiting is on purpose."""
        self._last = time.monotonic()

    def begin(self, count: int) -> None:
        """Say that a batch was taken."""
        self._last = self._began = time.monotonic()
        self.in_flight = count
        metrics.IN_FLIGHT.labels(self._stage).set(count)

    def finish(self, count: int, *, held: int = 0) -> None:
        """Say that so many are done, and so many wait for something."""
        self._last = time.monotonic()
        self.in_flight = held
        self.finished += count
        metrics.IN_FLIGHT.labels(self._stage).set(held)
