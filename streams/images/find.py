"""Finds what a model reads of documents themselves: in MongoDB, and images behind their URLs too.

A live change of a document with a URL fetches it, as other bytes may be there by now. A repeat of
one whose output was made from that URL does not: a new captioner reaches documents whose URL is
dead, and no copy turns captions into errors.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from streams.contract.documents import (
    Output,
    field_fingerprint,
    fingerprint,
    lookup,
    output_from_url,
    stored_image,
    url_of,
)
from streams.contract.events import DocumentChanged, ModelApplied, Origin
from streams.contract.ids import document_key
from streams.contract.pipeline import IMAGE, Model
from streams.errors import DocumentError
from streams.images.image import image_bytes
from streams.images.turns import Fetched, FetchQueue
from streams.mongo.client import Document
from streams.mongo.store import DocumentStore
from streams.settings import ImageSettings

Arrived = DocumentChanged | ModelApplied
"""An event about a document that is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundInputs:
    """What a model reads of one document.

    Attributes:
        document: The document, with its outputs.
        inputs: Fingerprint of each field that the model reads itself.
        content: The encoded image; empty if the model reads none, and if it was not fetched, as an
            output that was made of it may stay.
        url: Where the image was fetched; None for one in the document, and where there is none.
    """

    document: Document
    inputs: Mapping[str, str]
    content: bytes = b""
    url: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the fields that are no image, as they stand; None where there is none."""
        return {name: self.document.get(name) for name in self.inputs if name != IMAGE}


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitedChange(DocumentChanged):
    """A change whose image is being fetched.

    Attributes:
        url: Where from.
        fetched: What will come of it.
    """

    url: str
    fetched: Future[Fetched]


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitedOutput(ModelApplied):
    """Another model's output of a document whose image is being fetched, as `AwaitedChange`."""

    url: str
    fetched: Future[Fetched]


Awaited = AwaitedChange | AwaitedOutput


class Postponed(Enum):
    """Instead of an image whose turn to be fetched did not come."""

    POSTPONED = "postponed"


Found = FoundInputs | DocumentError | Awaited | Postponed | None
"""None for a document that is gone."""


class InputSource:
    """Where one model's inputs come from."""

    def __init__(
        self,
        model: Model,
        store: DocumentStore,
        fetches: FetchQueue | None = None,
        limits: ImageSettings | None = None,
    ) -> None:
        """Keep what is needed; the last two for a model that reads the image."""
        self._model = model
        self._store = store
        self._fetches = fetches
        self._limits = limits

    def find(
        self, events: Sequence[Arrived], *, may_stay: Callable[[Arrived, Output], bool]
    ) -> list[Found]:
        """Return for each event what the model reads of its document, if that is still there.

        Or why it cannot be had; or the event to come again with, when its image was fetched. Waits
        for no server but MongoDB.

        Args:
            events: The events.
            may_stay: Whether an output that was made of the image behind the same URL is still
                right for an event, so that the image is not needed.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if not events:
            return []
        newest = max(event.source for event in events)
        documents = self._store.read_inputs([e.document_id for e in events], after=newest)
        begun: dict[str, Future[Fetched]] = {}
        found: list[Found] = []
        for event in events:
            document = documents.get(document_key(event.document_id))
            if document is None:
                found.append(None)
            elif self._model.has_image:
                found.append(self._image_of(event, document, may_stay, begun))
            else:
                found.append(self._found(document))
        return found

    def _image_of(
        self,
        event: Arrived,
        document: Document,
        may_stay: Callable[[Arrived, Output], bool],
        begun: dict[str, Future[Fetched]],
    ) -> Found:
        url = url_of(document)
        if url is None:
            return self._image(document, stored_image(document), None)
        stored = self._stored(event, document)
        if stored is not None and may_stay(event, stored):
            return self._found(document, stored.inputs[IMAGE], url=url)
        if isinstance(event, Awaited) and event.url == url:
            future = event.fetched
        else:
            if url not in begun:  # once for all documents of a batch
                assert self._fetches is not None  # noqa: S101 - given for a model with an image
                begun[url] = self._fetches.start(url)
            future = begun[url]
        if not future.done():
            return _awaiting(event, url, future)
        fetched = future.result()
        if fetched is None:
            return Postponed.POSTPONED
        return (
            fetched if isinstance(fetched, DocumentError) else self._image(document, fetched, url)
        )

    def _image(self, document: Document, value: object, url: str | None) -> Found:
        assert self._limits is not None  # noqa: S101 - given for a model with an image
        try:
            content = image_bytes(value, self._limits)
        except DocumentError as exc:
            return exc
        return self._found(document, fingerprint(content), content=content, url=url)

    def _found(
        self, document: Document, image: str = "", *, content: bytes = b"", url: str | None = None
    ) -> FoundInputs:
        inputs = {
            name: image if name == IMAGE else field_fingerprint(document.get(name))
            for name in self._model.raw_fields
        }
        return FoundInputs(document=document, inputs=inputs, content=content, url=url)

    def _stored(self, event: Arrived, document: Document) -> Output | None:
        """Return the stored output if it was made from its URL, for this change or one before."""
        at = lookup(document, f"{self._model.path}.source")
        if event.origin is Origin.LIVE and at != event.source:
            return None
        return output_from_url(document, self._model)


def _awaiting(event: Arrived, url: str, fetched: Future[Fetched]) -> Awaited:
    if isinstance(event, ModelApplied):
        return AwaitedOutput(**_content(event, ModelApplied), url=url, fetched=fetched)
    return AwaitedChange(**_content(event, DocumentChanged), url=url, fetched=fetched)


def _content(event: Arrived, kind: type[Arrived]) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(kind)}
