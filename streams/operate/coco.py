"""Reading COCO caption annotations (`captions_*.json`) as documents of ours.

One bad row costs itself, not the file: it is passed over, with a line that names it.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streams.contract.documents import is_caption
from streams.errors import SettingsError, bounded

_ID_LIMIT: Final = 2**63
#: Most characters of a value in a line about it.
_SHOWN: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoImage:
    """One annotated image.

    Attributes:
        image_id: COCO's id; becomes `_id`.
        path: Where the image file lies.
        captions: Its usable reference captions, in the file's order.
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
        except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
            reason = exc.strerror if isinstance(exc, OSError) else exc
            msg = f"cannot read image {str(self.path)!r}: {reason}; check --images"
            raise SettingsError(msg) from exc
        fields: dict[str, Any] = {"img": image, "captions": list(self.captions)}
        if fold is not None:
            fields["_fold"] = fold
        return fields


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoFile:
    """What an annotation file holds.

    Attributes:
        images: The images, in the file's order.
        passed_over: One line for each image or caption that cannot be used, and why.
    """

    images: Sequence[CocoImage]
    passed_over: Sequence[str]


class _BadRow(ValueError):
    """One row of the file cannot be used."""


def read_annotations(annotations: Path, images: Path) -> CocoFile:
    """Return the images that an annotation file describes, and what cannot be used of it.

    UTF-8 with or without a byte order mark, UTF-16 and UTF-32 are understood.

    Raises:
        SettingsError: The file cannot be read, or is no COCO captions file.
    """
    try:
        data = json.loads(annotations.read_bytes())
        rows, texts = data["images"], data["annotations"]
        if not isinstance(rows, list) or not isinstance(texts, list):
            msg = "`images` and `annotations` must be lists"
            raise TypeError(msg)
    except OSError as exc:
        msg = f"cannot read annotations {annotations}: {exc.strerror}"
        raise SettingsError(msg) from exc
    except UnicodeDecodeError as exc:
        msg = (
            f"{annotations} is not UTF-8 (byte {exc.start} is {exc.object[exc.start]:#04x}): store"
            f" it as UTF-8, for example by `iconv -f latin1 -t utf-8`"
        )
        raise SettingsError(msg) from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        msg = f"{annotations} is no COCO captions file (images, annotations): {exc!r}"
        raise SettingsError(msg) from exc
    passed_over: list[str] = []
    captions = _captions(texts, passed_over)
    if texts and not captions:
        msg = f"{annotations} is no COCO captions file: it has no usable caption; {passed_over[0]}"
        raise SettingsError(msg)
    found = _images(rows, images, captions, passed_over)
    passed_over += [f"captions of image {number}, which is not listed" for number in captions]
    return CocoFile(images=found, passed_over=passed_over)


def _captions(rows: Iterable[Any], passed_over: list[str]) -> dict[int, list[str]]:
    """Return the usable captions by id of their image."""
    captions: dict[int, list[str]] = defaultdict(list)
    for number, row in enumerate(rows):
        try:
            image_id, caption = _id(row, "image_id"), row.get("caption")
            if not is_caption(caption):
                msg = f"its caption is no text with a letter in it: {_shown(caption)}"
                raise _BadRow(msg)
        except _BadRow as exc:
            passed_over.append(f"annotation {_name(row, number)} cannot be used: {exc}")
            continue
        captions[image_id].append(caption)
    return captions


def _images(
    rows: Iterable[Any], images: Path, captions: dict[int, list[str]], passed_over: list[str]
) -> list[CocoImage]:
    """Return the images, and take what belongs to a listed one out of `captions`."""
    found: dict[int, CocoImage] = {}
    root = images.resolve()
    for number, row in enumerate(rows):
        try:
            image_id = _id(row, "id")
            texts = tuple(captions.pop(image_id, ()))
            if image_id in found:
                msg = "its id stands in the file twice"
                raise _BadRow(msg)
            path = _path(row, images, root)
        except _BadRow as exc:
            passed_over.append(f"image {_name(row, number)} cannot be used: {exc}")
            continue
        found[image_id] = CocoImage(image_id=image_id, path=path, captions=texts)
    return list(found.values())


def _path(row: dict[str, Any], images: Path, root: Path) -> Path:
    name = row.get("file_name")
    if not isinstance(name, str):
        msg = f"its file_name must be a string, got {_shown(name)}"
        raise _BadRow(msg)
    try:
        path = (images / name).resolve()
    except (OSError, ValueError, RuntimeError) as exc:
        msg = f"its file_name {_shown(name)} cannot be a file's"
        raise _BadRow(msg) from exc
    if not path.is_relative_to(root):
        msg = f"its file_name {_shown(name)} leaves {images}"
        raise _BadRow(msg)
    return path


def _id(row: Any, field: str) -> int:
    """Return an id; some files write the number as a string."""
    value = row.get(field) if isinstance(row, dict) else None
    if isinstance(value, str) and value.isdecimal() and len(value) < _SHOWN:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"its {field} must be a whole number, got {_shown(value)}"
        raise _BadRow(msg)
    if abs(value) >= _ID_LIMIT:
        msg = f"its {field} {_shown(value)} does not fit into 64 bits, which MongoDB has for it"
        raise _BadRow(msg)
    return value


def _name(row: Any, number: int) -> str:
    """Return what a user finds a row by: its id, or its place in the list."""
    row_id = row.get("id") if isinstance(row, dict) else None
    return f"number {number + 1}" if row_id is None else _shown(row_id)


def _shown(value: object) -> str:
    return bounded(repr(value), _SHOWN)
