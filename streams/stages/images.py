"""Finds the images of changed documents: in MongoDB, or behind their URLs.

A live change of a document with a URL fetches it, as other bytes may be there by now. A repeat of
one whose embedding was made from that URL does not: a new captioner reaches documents whose URL is
dead, and no copy turns captions into errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.documents import CLIP, IMAGE, embedding_from_url, fingerprint, lookup, url_of
from streams.errors import DocumentError
from streams.events import ImageChanged, Origin
from streams.fetching.fetcher import Fetcher
from streams.ids import document_key
from streams.models.image import image_bytes
from streams.mongo import Document
from streams.settings import ImageSettings
from streams.store import DocumentStore


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


class ImageSource:
    """Where the images of a batch come from."""

    def __init__(self, store: DocumentStore, fetcher: Fetcher, limits: ImageSettings) -> None:
        """Keep what is needed."""
        self._store = store
        self._fetcher = fetcher
        self._limits = limits

    def find(
        self, events: Sequence[ImageChanged], *, version: str
    ) -> Mapping[bytes, FoundImage | DocumentError]:
        """Return by document key the image of each document that is still there.

        Or why it cannot be had. `version` of CLIP tells which stored embeddings still count.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if not events:
            return {}
        newest = max(event.source for event in events)
        documents = self._store.read_inputs([e.document_id for e in events], after=newest)
        urls = {
            key: url
            for event in events
            if (document := documents.get(key := document_key(event.document_id)))
            and (url := url_of(document))
            and not _is_embedded(event, document, version)
        }
        contents = self._fetcher.fetch_all(set(urls.values()))
        return {
            key: self._image(document, contents[urls[key]] if key in urls else None)
            for key, document in documents.items()
        }

    def _image(
        self, document: Document, fetched: bytes | DocumentError | None
    ) -> FoundImage | DocumentError:
        if isinstance(fetched, DocumentError):
            return fetched
        url = url_of(document)
        if url is not None and fetched is None:
            digest = lookup(document, f"{CLIP.path}.input")
            return FoundImage(document=document, digest=digest, content=b"", url=url)
        try:
            content = image_bytes(document.get(IMAGE) if url is None else fetched, self._limits)
        except DocumentError as exc:
            return exc
        return FoundImage(document=document, digest=fingerprint(content), content=content, url=url)


def _is_embedded(event: ImageChanged, document: Document, version: str) -> bool:
    """Whether the stored embedding was made from its URL, for this change or one before."""
    if event.origin is Origin.LIVE and lookup(document, f"{CLIP.path}.source") != event.source:
        return False
    output = embedding_from_url(document)
    return output is not None and output.version == version
