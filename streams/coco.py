"""Reading COCO caption annotations (`captions_*.json`) as documents of ours."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streams.errors import SettingsError

_ID_LIMIT: Final = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoImage:
    """One annotated image.

    Attributes:
        image_id: COCO's id; becomes `_id`.
        path: Where the image file lies.
        captions: Its reference captions, in the file's order.
    """

    image_id: int
    path: Path
    captions: tuple[str, ...]

    def document(self, fold: str | None) -> dict[str, Any]:
        """Return the document's fields without `_id`.

        Raises:
            SettingsError: The image file cannot be read.
        """
        try:
            image = self.path.read_bytes()
        except OSError as exc:
            msg = f"cannot read image {self.path}: {exc.strerror}; check --images"
            raise SettingsError(msg) from exc
        fields: dict[str, Any] = {"img": image, "captions": list(self.captions)}
        if fold is not None:
            fields["_fold"] = fold
        return fields


def read_annotations(annotations: Path, images: Path) -> list[CocoImage]:
    """Return the images that an annotation file describes, in its order.

    Raises:
        SettingsError: The file cannot be read or is no COCO captions file, or a file name leaves
            the image directory.
    """
    try:
        data = json.loads(annotations.read_text())
        captions: dict[int, list[str]] = defaultdict(list)
        for annotation in data["annotations"]:
            captions[int(annotation["image_id"])].append(str(annotation["caption"]))
        return list(_images(data["images"], images, captions))
    except OSError as exc:
        msg = f"cannot read annotations {annotations}: {exc.strerror}"
        raise SettingsError(msg) from exc
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        msg = f"{annotations} is no COCO captions file (images, annotations): {exc!r}"
        raise SettingsError(msg) from exc


def _images(
    rows: list[dict[str, Any]], images: Path, captions: dict[int, list[str]]
) -> Iterator[CocoImage]:
    root = images.resolve()
    for row in rows:
        image_id = int(row["id"])
        if abs(image_id) >= _ID_LIMIT:
            msg = f"id {image_id} does not fit into 64 bits, which MongoDB has for it"
            raise SettingsError(msg)
        name = row["file_name"]
        if not isinstance(name, str):
            msg = f"file_name of image {image_id} must be a string, got {name!r}"
            raise SettingsError(msg)
        path = (images / name).resolve()
        if not path.is_relative_to(root):
            msg = f"file_name {name!r} of image {image_id} leaves {images}"
            raise SettingsError(msg)
        yield CocoImage(image_id=image_id, path=path, captions=tuple(captions[image_id]))
