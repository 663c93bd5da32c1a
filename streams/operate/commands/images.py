"""Images that a user names: files, directories of them, URLs. Each is its bytes, or an error."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import bson
from bson.errors import InvalidDocument

from streams.errors import CaptionstreamError, SettingsError
from streams.images.fetcher import Fetcher
from streams.images.image import image_suffixes
from streams.settings import Settings

#: What MongoDB stores in one document, less room for the outputs.
_MOST_BYTES: Final = (16 << 20) - (64 << 10)


def read_images(
    sources: list[str], settings: Settings
) -> Iterator[tuple[str, bytes | CaptionstreamError]]:
    """Yield name and bytes of each image, or what is wrong with it.

    The name of an image in a directory is its path from there.

    URLs are fetched as the stage fetches those in documents: from public addresses only, within
    limits of bytes, seconds and redirects.
    """

    @cache
    def fetcher() -> Fetcher:
        return Fetcher(settings.fetch, max_bytes=settings.image.max_bytes)

    for source in sources:
        path = Path(source)
        if "://" in source:  # the fetcher knows which schemes there are, in any case
            yield _attempt(source, partial(fetcher().fetch, source))
        elif path.is_dir():
            yield from _directory(path)
        else:
            yield _attempt(path.name, partial(_read, path))


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


def _directory(top: Path) -> Iterator[tuple[str, bytes | CaptionstreamError]]:
    """Yield all images below a directory, by name, and an error for whatever else is there.

    Hidden files are left out, as everywhere. Links to directories are not followed: they may lead
    round in a circle.
    """
    suffixes = image_suffixes()
    problems: list[SettingsError] = []
    is_empty = True

    def note(exc: OSError) -> None:
        problems.append(_unreadable(Path(exc.filename), exc))

    for place, directories, files in os.walk(top, onerror=note):
        here = Path(place)
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        links = [name for name in directories if (here / name).is_symlink()]
        problems.extend(SettingsError(f"{here / n} is a link to a directory") for n in links)
        for name in sorted(name for name in files if not name.startswith(".")):
            is_empty = False
            file = here / name
            if file.suffix.lower() in suffixes:
                yield _attempt(str(file.relative_to(top)), partial(_read, file))
            else:
                yield _attempt(str(file), partial(_refuse, file))
    yield from ((str(top), problem) for problem in problems)
    if is_empty and not problems:
        yield str(top), SettingsError(f"no images in {top}")


def _refuse(file: Path) -> bytes:
    ending = f"its name ends in {file.suffix}" if file.suffix else "its name has no ending"
    msg = f"{file} is no image that can be read: {ending}; name it alone to insert it all the same"
    raise SettingsError(msg)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise _unreadable(file, exc) from exc


def _unreadable(path: Path, exc: OSError) -> SettingsError:
    return SettingsError(f"cannot read {path}: {exc.strerror}")
