"""Documents whose event is too large for Kafka: the error goes straight into the document."""

from collections.abc import Callable, Sequence

from structlog import get_logger

from streams.contract.documents import (
    OutputError,
)
from streams.contract.events import DocumentChanged
from streams.contract.pipeline import Model
from streams.contract.states import Serving
from streams.contract.writes import OutputWrite
from streams.mongo.store import DocumentStore

log = get_logger(__name__)


def note_refused(
    events: Sequence[DocumentChanged], *, store: DocumentStore, serving: Callable[[], Serving]
) -> None:
    """Say in each document why it gets no outputs: no stage and no dead letter ever will.

    Args:
        events: The events that Kafka refused.
        store: The collection.
        serving: Returns the versions that serve now; a document is done for these.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    if not events:
        return
    versions = serving().versions
    roots = [model for model in store.pipeline.models.values() if not model.ancestors]
    writes = [_write(e, root, versions.get(root.name, "")) for e in events for root in roots]
    for reason in store.write_errors(writes).values():
        log.error("document without the error that says why", error=reason[:300])


def _write(event: DocumentChanged, model: Model, version: str) -> OutputWrite:
    error = OutputError(
        type="InvalidId",
        message="`_id` is too large for a record of Kafka; insert the document under another",
        attempts=1,
        is_retryable=False,
        version=version,
    )
    return OutputWrite(
        document_id=event.document_id, source=event.source, model=model, result=error
    )
