"""Documents whose event is too large for Kafka: the error goes straight into the document."""

from collections.abc import Callable, Sequence

from structlog import get_logger

from streams.contract.default_pipeline import (
    CLIP,
)
from streams.contract.documents import (
    OutputError,
)
from streams.contract.events import ImageChanged
from streams.contract.states import Serving
from streams.contract.writes import OutputWrite
from streams.mongo.store import DocumentStore

log = get_logger(__name__)


def note_refused(
    events: Sequence[ImageChanged], *, store: DocumentStore, serving: Callable[[], Serving]
) -> None:
    """Say in each document why it gets no outputs: no stage and no dead letter ever will.

    Args:
        events: The events that Kafka refused.
        store: The collection.
        serving: Returns the versions that serve now; a document is done for this one of CLIP.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    if not events:
        return
    error = OutputError(
        type="InvalidId",
        message="`_id` is too large for a record of Kafka; insert the image under another",
        attempts=1,
        is_retryable=False,
        version=serving().versions.get(CLIP.name, ""),
    )
    for reason in store.write_errors([_write(event, error) for event in events]).values():
        log.error("document without the error that says why", error=reason[:300])


def _write(event: ImageChanged, error: OutputError) -> OutputWrite:
    return OutputWrite(
        document_id=event.document_id, source=event.source, model=CLIP, input="", result=error
    )
