"""Writing COCO images as documents. What stands there already is a user's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from streams.contract.documents import CAPTIONS
from streams.contract.folds import FOLD
from streams.contract.pipeline import IMAGE
from streams.errors import SettingsError
from streams.mongo.client import Document, mongo_errors
from streams.mongo.rejections import rejections
from streams.operate.coco import CocoImage
from streams.operate.commands.images import check_size


class CocoImport:
    """Adds images batch by batch.

    Attributes:
        present: Images whose documents are now as the files say.
        added: How many of these are new.
    """

    def __init__(
        self,
        collection: Collection[Document],
        *,
        fold: str | None,
        may_replace: bool,
        pass_over: Callable[[object], None],
    ) -> None:
        """Keep what is needed.

        Args:
            collection: Where the documents go.
            fold: `_fold` of all of them; none is written when None.
            may_replace: Whether image, captions and fold of a document that differs are replaced.
            pass_over: Called with what is wrong with an image that is not imported.
        """
        self._collection = collection
        self._fold = fold
        self._may_replace = may_replace
        self._pass_over = pass_over
        self.present = self.added = 0

    def add(self, images: Sequence[CocoImage]) -> None:
        """Import one batch.

        1. Read the files; pass over what MongoDB cannot store.
        2. Leave documents that are the same; pass over those that differ unless they may be
           replaced.
        3. Write the others. One that somebody else inserts meanwhile is not overwritten either.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        writes = dict(self._read(images))  # 1
        for stored in self._stored(list(writes)):  # 2
            image_id: int = stored["_id"]
            other = [name for name, value in writes[image_id].items() if stored.get(name) != value]
            if not other:
                self.present += 1
            elif self._may_replace:
                continue
            else:
                self._pass_over(
                    f"document {image_id} is there already with another {', '.join(other)};"
                    " --replace replaces them"
                )
            del writes[image_id]
        if writes:
            self._write(writes)  # 3

    def _read(self, images: Sequence[CocoImage]) -> Iterator[tuple[int, Document]]:
        for image in images:
            try:
                document = image.document(self._fold)
                check_size(str(image.path), document)
            except SettingsError as exc:
                self._pass_over(exc)
            else:
                yield image.image_id, document

    def _stored(self, ids: Sequence[int]) -> list[Document]:
        fields = {IMAGE: 1, CAPTIONS: 1, FOLD: 1}
        with mongo_errors("reading documents"):
            return list(self._collection.find({"_id": {"$in": ids}}, fields))

    def _write(self, documents: Mapping[int, Document]) -> None:
        operator = "$set" if self._may_replace else "$setOnInsert"
        writes = [
            UpdateOne({"_id": image_id}, {operator: document}, upsert=True)
            for image_id, document in documents.items()
        ]
        refused: Mapping[int, str] = {}
        with mongo_errors("importing"):
            try:
                upserted = self._collection.bulk_write(writes, ordered=False).upserted_ids or {}
            except BulkWriteError as exc:
                refused = rejections(exc)
                upserted = {row["index"]: row["_id"] for row in exc.details["upserted"]}
        added = upserted.keys()
        self.added += len(added)
        for position, image_id in enumerate(documents):
            if position in refused:
                self._pass_over(f"MongoDB refuses document {image_id}: {refused[position]}")
            elif position not in added and not self._may_replace:
                self._pass_over(f"document {image_id} was inserted by somebody else meanwhile")
            else:
                self.present += 1
