"""Finds the images of changed documents: in MongoDB, or behind their URLs.

A live change of a document with a URL fetches it, as other bytes may be there by now. A repeat of
one whose embedding was made from that URL does not: a new captioner reaches documents whose URL is
dead, and no copy turns captions into errors.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum

from streams.contract.documents import (
    Output,
    fingerprint,
    lookup,
    output_from_url,
    stored_image,
    url_of,
)
from streams.contract.events import DocumentChanged, Origin
from streams.contract.ids import document_key
from streams.contract.pipeline import IMAGE, Model
from streams.errors import DocumentError
from streams.images.image import image_bytes
from streams.images.turns import Fetched, FetchQueue
from streams.mongo.client import Document
from streams.mongo.store import DocumentStore
from streams.settings import ImageSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundImage:
    """The image of one document.

    Attributes:
        document: The document, with its outputs.
        digest: Fingerprint of the encoded image.
        content: The encoded image; empty if it was not fetched, as its embedding is stored.
        url: Where it was fetched; None for an image in the document.
    """

    document: Document
    digest: str
    content: bytes
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitedImage(DocumentChanged):
    """A change whose image is being fetched.

    Attributes:
        url: Where from.
        fetched: What will come of it.
    """

    url: str
    fetched: Future[Fetched]


class Postponed(Enum):
    """Instead of an image whose turn to be fetched did not come."""

    POSTPONED = "postponed"


Found = FoundImage | DocumentError | AwaitedImage | Postponed


class ImageSource:
    """Where the images of a batch come from, for one model."""

    def __init__(
        self, model: Model, store: DocumentStore, fetches: FetchQueue, limits: ImageSettings
    ) -> None:
        """Keep what is needed."""
        self._model = model
        self._store = store
        self._fetches = fetches
        self._limits = limits

    def find(self, events: Sequence[DocumentChanged], *, version: str) -> Mapping[bytes, Found]:
        """Return by document key the image of each document that is still there.

        Or why it cannot be had; or the event to come again with, when its image was fetched. Waits
        for no server but MongoDB. Stored outputs of this `version` of the model still count.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if not events:
            return {}
        newest = max(event.source for event in events)
        documents = self._store.read_inputs([e.document_id for e in events], after=newest)
        begun: dict[str, Future[Fetched]] = {}
        found: dict[bytes, Found] = {}
        for event in events:
            key = document_key(event.document_id)
            if (document := documents.get(key)) is not None:
                found[key] = self._find(event, document, version, begun)
        return found

    def _find(
        self,
        event: DocumentChanged,
        document: Document,
        version: str,
        begun: dict[str, Future[Fetched]],
    ) -> Found:
        url = url_of(document)
        if url is None:
            return self._image(document, stored_image(document), None)
        stored = self._stored(event, document, version)
        if stored is not None:
            digest = stored.inputs[IMAGE]
            return FoundImage(document=document, digest=digest, content=b"", url=url)
        if isinstance(event, AwaitedImage) and event.url == url:
            future = event.fetched
        else:
            if url not in begun:  # once for all documents of a batch
                begun[url] = self._fetches.start(url)
            future = begun[url]
        if not future.done():
            return AwaitedImage(
                document_id=event.document_id,
                source=event.source,
                origin=event.origin,
                url=url,
                fetched=future,
            )
        fetched = future.result()
        if fetched is None:
            return Postponed.POSTPONED
        return (
            fetched if isinstance(fetched, DocumentError) else self._image(document, fetched, url)
        )

    def _image(self, document: Document, value: object, url: str | None) -> Found:
        try:
            content = image_bytes(value, self._limits)
        except DocumentError as exc:
            return exc
        return FoundImage(document=document, digest=fingerprint(content), content=content, url=url)

    def _stored(self, event: DocumentChanged, document: Document, version: str) -> Output | None:
        """Return the stored output if it was made from its URL, for this change or one before."""
        at = lookup(document, f"{self._model.path}.source")
        if event.origin is Origin.LIVE and at != event.source:
            return None
        output = output_from_url(document, self._model)
        return output if output is not None and output.version == version else None
