"""Documents whose event is too large for Kafka: the error goes straight into the document."""

from collections.abc import Sequence

from streams.documents import CLIP, OutputError
from streams.events import ImageChanged
from streams.registry import Registry
from streams.store import DocumentStore, OutputWrite


def note_refused(
    events: Sequence[ImageChanged], *, store: DocumentStore, registry: Registry
) -> None:
    """Say in each document why it gets no outputs: no stage and no dead letter ever will.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    if not events:
        return
    pointer = registry.pointer(CLIP.name)
    error = OutputError(
        type="InvalidId",
        message="`_id` is too large for a record of Kafka; insert the image under another",
        attempts=1,
        is_retryable=False,
        version=pointer.version if pointer else "",
    )
    store.write_outputs([_write(event, error) for event in events])


def _write(event: ImageChanged, error: OutputError) -> OutputWrite:
    return OutputWrite(
        document_id=event.document_id, source=event.source, model=CLIP, input="", result=error
    )
