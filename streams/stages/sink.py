"""The step of `sink`: the one writer. Outputs and errors go into their documents, each guarded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from structlog import get_logger

from streams import metrics
from streams.contract.dead_letters import DeadLetter
from streams.contract.documents import (
    OutputError,
)
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.ids import DocumentId, document_key
from streams.contract.pipeline import Pipeline
from streams.contract.writes import OutputWrite, WriteReport
from streams.errors import InvalidEvent, WriteRejected
from streams.mongo.store import DocumentStore
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result

log = get_logger(__name__)

#: Characters of MongoDB's reason that are stored: there is little room in such a document.
_MOST_REASON: Final = 100
#: Documents that are remembered because nothing can be stored in them.
_MOST_REFUSED: Final = 10_000


class Sink:
    """Bulk writes of whatever the other stages have made."""

    def __init__(self, store: DocumentStore) -> None:
        """Keep the store."""
        self._store = store
        #: Why, by key, of documents that hold neither our outputs nor our errors; the latest last.
        self._refused: dict[bytes, str] = {}

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event, after a majority has acknowledged its write."""
        planned = [_plan(event, self._store.pipeline) for event in events]
        placed = [(i, item) for i, item in enumerate(planned) if isinstance(item, OutputWrite)]
        report = self._write([write for _, write in placed])
        self._forget(placed[i][1].document_id for i in (*report.done, *report.kept_away))
        self._forget(e.document_id for e in events if isinstance(e, DocumentDeleted))
        metrics.WRITES.labels("written").inc(report.written)
        metrics.WRITES.labels("ignored").inc(report.ignored)
        outcomes: list[Outcome] = [
            item if isinstance(item, Ok | Failed) else Ok(event=None, result=Result.DONE)
            for item in planned
        ]
        for position, reason in report.rejected.items():
            msg = f"MongoDB refused the output: {reason}"
            outcomes[placed[position][0]] = Failed(error=WriteRejected(msg))
        for position in report.done:
            _observe(events[placed[position][0]])
        return outcomes

    def _write(self, writes: Sequence[OutputWrite]) -> WriteReport:
        """Write; try those that MongoDB refuses once more when what is in their way is gone.

        Where an output does not fit, that is said in the document, or beside it: else it would look
        unfinished for ever.
        """
        first = self._store.write_outputs(writes)
        if not first.rejected:
            return first
        positions = list(first.rejected)
        refused = [writes[position] for position in positions]
        log.warning(
            "outputs refused", documents=len(refused), error=first.rejected[positions[0]][:200]
        )
        self._store.clear_malformed([write.document_id for write in refused])
        second = self._store.write_outputs(refused)
        notes = [_refusal(refused[i], reason) for i, reason in second.rejected.items()]
        self._remember(notes, self._store.write_errors(notes))
        return WriteReport(
            done={*first.done, *(positions[i] for i in second.done)},
            kept_away={*first.kept_away, *(positions[i] for i in second.kept_away)},
            rejected={positions[i]: reason for i, reason in second.rejected.items()},
        )

    def refused(self) -> tuple[int, str]:
        """Return in how many documents neither outputs nor errors can be stored, and why."""
        reasons = list(self._refused.values())
        return len(reasons), reasons[-1] if reasons else ""

    def _remember(self, notes: Sequence[OutputWrite], rejected: Mapping[int, str]) -> None:
        """Without it such a document would look as if it were on its way, for ever."""
        for position, reason in rejected.items():
            key = document_key(notes[position].document_id)
            self._refused.pop(key, None)
            self._refused[key] = reason
            log.error("neither output nor error can be stored", key=key[:100], error=reason[:300])
        for key in list(self._refused)[:-_MOST_REFUSED]:
            del self._refused[key]

    def _forget(self, document_ids: Iterable[DocumentId]) -> None:
        if self._refused:
            for document_id in document_ids:
                self._refused.pop(document_key(document_id), None)

    def self_test(self) -> bool:
        """There is no model that could be broken."""
        return True

    def versions(self) -> Mapping[str, str]:
        """There is no model."""
        return {}


def _refusal(write: OutputWrite, reason: str) -> OutputWrite:
    if isinstance(write.result, OutputError):
        return write
    error = OutputError(
        type=WriteRejected.__name__,
        message=f"MongoDB refused the output: {reason[:_MOST_REASON]}",
        attempts=1,
        is_retryable=False,
        version=write.result.version,
    )
    return replace(write, result=error)


def _plan(event: Input, pipeline: Pipeline) -> OutputWrite | Outcome:
    """Return what to write. A change that no model had to run for brings nothing.

    Nor does an output that came out of its document, as the guard would keep it away, nor one of a
    model that this process does not know: another pipeline is declared by now, and whoever runs
    that one stores it.
    """
    if isinstance(event, DocumentDeleted):
        return Ok(event=None, result=Result.DELETED)
    if isinstance(event, DeadLetter):
        return _plan_error(event, pipeline)
    if isinstance(event, DocumentChanged) or event.model not in pipeline.models:
        return Ok(event=None, result=Result.IGNORED)
    if event.model in event.stored:
        return Ok(event=None, result=Result.REUSED)
    model, result = pipeline.models[event.model], event.outputs[event.model]
    if set(result.inputs) != set(model.inputs):
        msg = f"{model.name} was made of {sorted(result.inputs)}, expected {list(model.inputs)}"
        return Failed(error=InvalidEvent(msg))
    return OutputWrite(
        document_id=event.document_id,
        source=event.source,
        model=model,
        result=result,
    )


def _plan_error(letter: DeadLetter, pipeline: Pipeline) -> OutputWrite | Outcome:
    """An error is stored where its output would be, if the record says where that is."""
    model = pipeline.models.get(letter.model)
    try:
        document_id = letter.document_id
    except InvalidEvent:
        return Ok(event=None, result=Result.IGNORED)
    if model is None or letter.source is None:
        return Ok(event=None, result=Result.IGNORED)
    return OutputWrite(
        document_id=document_id, source=letter.source, model=model, result=letter.error
    )


def _observe(event: Input) -> None:
    """Latency of live changes; copies and repeats would measure their own waiting."""
    if (
        isinstance(event, ModelApplied)
        and event.origin is Origin.LIVE
        and event.changed_at is not None
    ):
        seconds = (datetime.now(UTC) - event.changed_at).total_seconds()
        metrics.END_TO_END_SECONDS.labels(event.model).observe(max(0.0, seconds))
