"""Images that a user names: files, directories of them, URLs. Each is its bytes, or an error."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import bson
from bson.errors import InvalidDocument

from streams.errors import CaptionstreamError, SettingsError
from streams.fetching.fetcher import Fetcher
from streams.settings import Settings

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
#: What MongoDB stores in one document, less room for the outputs.
_MOST_BYTES: Final = (16 << 20) - (64 << 10)


def read_images(
    sources: list[str], settings: Settings
) -> Iterator[tuple[str, bytes | CaptionstreamError]]:
    """Yield name and bytes of each image, or what is wrong with it.

    URLs are fetched as the stage fetches those in documents: from public addresses only, within
    limits of bytes, seconds and redirects.
    """

    @cache
    def fetcher() -> Fetcher:
        return Fetcher(settings.fetch, max_bytes=settings.image.max_bytes)

    for source in sources:
        if source.startswith(("http://", "https://")):
            yield _attempt(source, partial(fetcher().fetch, source))
            continue
        try:
            files = _files(Path(source))
        except SettingsError as exc:
            yield source, exc
            continue
        for file in files:
            yield _attempt(file.name, partial(_read, file))


def check_size(name: str, document: Mapping[str, Any]) -> None:
    """Refuse a document that MongoDB cannot store.

    Raises:
        SettingsError: It is too large, or holds text that is no Unicode.
    """
    try:
        size = len(bson.encode(document))
    except (UnicodeEncodeError, InvalidDocument) as exc:
        msg = f"{name} cannot be stored: {exc}"
        raise SettingsError(msg) from exc
    if size > _MOST_BYTES:
        msg = (
            f"{name} cannot be stored: it has {size / (1 << 20):.1f} MB, and a document of MongoDB"
            " at most 16 MB, its outputs among them; make the image smaller"
        )
        raise SettingsError(msg)


def _attempt(name: str, read: Callable[[], bytes]) -> tuple[str, bytes | CaptionstreamError]:
    name = os.fsencode(name).decode(errors="replace")  # a file's name need not be Unicode
    try:
        image = read()
        check_size(name, {"img": image, "name": name})
    except CaptionstreamError as exc:
        return name, exc
    return name, image


def _files(path: Path) -> list[Path]:
    """Return the images in a directory, or the file itself.

    Raises:
        SettingsError: The directory cannot be read or has no images.
    """
    try:
        found = sorted(path.iterdir()) if path.is_dir() else None
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if found is None:
        return [path]
    images = [file for file in found if file.suffix.lower() in _SUFFIXES]
    if not images:
        msg = f"no images in {path} (by their names: {', '.join(sorted(_SUFFIXES))})"
        raise SettingsError(msg)
    return images


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise _unreadable(file, exc) from exc


def _unreadable(path: Path, exc: OSError) -> SettingsError:
    return SettingsError(f"cannot read {path}: {exc.strerror}")
