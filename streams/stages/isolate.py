"""Running a step so that one bad event fails alone, with retries and a circuit breaker.

Synchronous and free of Kafka: `stage.py` calls it in its worker thread.
"""

from collections.abc import Callable, Sequence
from typing import Final

from structlog import get_logger

from streams import metrics
from streams.backoff import Backoff
from streams.errors import (
    CaptionstreamError,
    FetchFailed,
    ModelFailed,
    ProcessBroken,
    Unavailable,
)
from streams.settings import StageSettings
from streams.stages.outcome import Failed, Input, Outcome, Step

log = get_logger(__name__)

#: A model that failed so many self-tests in a row will not recover: its process is not healthy...
_UNHEALTHY_TESTS: Final = 3
#: ... and ends some pauses later, when whoever asks for its health has seen that.
_MOST_TESTS: Final = 6


class Isolator:
    """Runs a step over batches; every event ends with one outcome."""

    def __init__(
        self,
        stage: str,
        step: Step,
        settings: StageSettings,
        *,
        pause: Callable[[float], bool],
        beat: Callable[[], None],
    ) -> None:
        """Keep what is needed.

        Args:
            stage: Name of the stage, for metrics and logs.
            step: The step to run.
            settings: Attempts and back-off.
            pause: Waits so many seconds; returns True when the process is to stop.
            beat: Called while waiting on purpose, so that waiting is not taken for hanging.
        """
        self._stage = stage
        self._step = step
        self._settings = settings
        self._backoff = Backoff(settings.backoff_initial_seconds, settings.backoff_max_seconds)
        self._pause = pause
        self._beat = beat
        #: Why the batch in hand is held; empty while it is not.
        self.waits_for = ""
        self._failed_tests = 0

    @property
    def trouble(self) -> str:
        """Why the process cannot work any more, and will end soon; empty while it can."""
        if self._failed_tests < _UNHEALTHY_TESTS:
            return ""
        return f"the model failed its self-test {self._failed_tests} times in a row"

    def apply(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event.

        1. Run the batch; wait while a neighbour is away; halve it where it raises.
        2. Try retryable failures again, up to `max_attempts`.
        3. If some still fail and the model fails its self-test, the model is at fault: wait, and
           give up in the end.

        Raises:
            Unavailable: The process is to stop while a neighbour is away. Nothing was finished.
            ProcessBroken: The model failed too many self-tests. Nothing was finished.
        """
        outcomes = self._run(events)
        attempt = 1
        while failing := [i for i, outcome in enumerate(outcomes) if _may_pass(outcome)]:
            if attempt >= self._settings.max_attempts and self._is_well():
                break
            self._wait(attempt, _first_error(outcomes, failing))
            attempt += 1
            for i, again in zip(failing, self._run([events[i] for i in failing]), strict=True):
                outcomes[i] = (
                    Failed(error=again.error, attempts=attempt, version=again.version)
                    if isinstance(again, Failed)
                    else again
                )
        self._hold("")
        self._failed_tests = 0
        return outcomes

    def _is_well(self) -> bool:
        """Whether the model passes its self-test, so that the events are at fault.

        Raises:
            ProcessBroken: It failed for the last time.
        """
        try:
            if self._step.self_test():
                return True
        except Exception:  # a test that cannot even be made is failed
            log.exception("the self-test raised", stage=self._stage)
        self._failed_tests += 1
        log.error("model fails its self-test; holding the batch", stage=self._stage)
        if self._failed_tests >= _MOST_TESTS:
            raise ProcessBroken(self.trouble)
        self._hold("its model, which fails its self-test")
        return False

    def _run(self, events: Sequence[Input]) -> list[Outcome]:
        waited = 0
        while True:
            try:
                return self._bisect(events)
            except Unavailable as exc:
                waited += 1
                self._hold(str(exc))
                log.warning("waiting for a neighbour", stage=self._stage, error=str(exc))
                self._wait(waited, exc)

    def _hold(self, reason: str) -> None:
        self.waits_for = reason
        metrics.WAITING.labels(self._stage).set(1 if reason else 0)

    def _bisect(self, events: Sequence[Input]) -> list[Outcome]:
        try:
            return self._step.run(events)
        except Unavailable:
            raise
        except Exception as exc:
            if len(events) > 1:
                middle = len(events) // 2
                return self._bisect(events[:middle]) + self._bisect(events[middle:])
            version = next(iter(self._step.versions().values()), "")
            return [Failed(error=_as_ours(exc), version=version)]

    def _wait(self, attempt: int, error: CaptionstreamError) -> None:
        metrics.RETRIES.labels(self._stage, type(error).__name__).inc()
        self._beat()
        if self._pause(self._backoff.jittered(attempt)):
            if isinstance(error, Unavailable):
                raise error
            msg = f"{self._stage} is stopping while its model is broken"
            raise Unavailable(msg) from error


def _may_pass(outcome: Outcome) -> bool:
    """Whether another try at once may help. A URL was tried again where nothing waits for it."""
    if not isinstance(outcome, Failed) or isinstance(outcome.error, FetchFailed):
        return False
    return outcome.error.is_retryable


def _first_error(outcomes: Sequence[Outcome], failing: Sequence[int]) -> CaptionstreamError:
    outcome = outcomes[failing[0]]
    assert isinstance(outcome, Failed)  # noqa: S101 - `failing` holds failures only
    return outcome.error


def _as_ours(exc: Exception) -> CaptionstreamError:
    if isinstance(exc, CaptionstreamError):
        return exc
    error = ModelFailed(f"{type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
