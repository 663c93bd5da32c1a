"""Commands about documents: insert, import-coco, show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from bson import json_util
from pymongo import UpdateOne
from rich.progress import track

from streams.coco import read_annotations
from streams.commands.context import AsJson, DataDir, err, open_state, out, settings_of
from streams.commands.ids import parse_id
from streams.documents import MODELS, OUTPUTS
from streams.errors import SettingsError
from streams.mongo import mongo_errors
from streams.settings import Settings
from streams.store import DocumentStore

_BATCH: Final = 50
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def insert(
    sources: Annotated[
        list[str], typer.Argument(help="Image files, directories of them, or URLs.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Insert images as new documents and print their ids.

    Example: captionstream insert photo.jpg holiday/ https://example.org/cat.png
    """
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    collection = DocumentStore(client, settings.mongo).collection
    for name, image in _images(sources, settings):
        with mongo_errors(f"inserting {name}"):
            document_id = collection.insert_one({"img": image, "name": name}).inserted_id
        out.print(f"{document_id}  {name}", markup=False)


def import_coco(
    annotations: Annotated[Path, typer.Option(help="COCO captions file (JSON).")],
    images: Annotated[Path, typer.Option(help="Directory of the image files.")],
    fold: Annotated[str | None, typer.Option(help="`train` or `valid` for all of them.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Import annotated COCO images; running it again changes nothing.

    Example: captionstream import-coco --annotations captions_val2017.json --images val2017
    """
    if fold not in (None, "train", "valid"):
        msg = f"--fold must be train or valid, got {fold!r}"
        raise SettingsError(msg)
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    collection = DocumentStore(client, settings.mongo).collection
    rows = read_annotations(annotations, images)
    added = 0
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, description="importing", console=err, disable=not err.is_terminal):
        writes = [
            UpdateOne({"_id": row.image_id}, {"$set": row.document(fold)}, upsert=True)
            for row in rows[start : start + _BATCH]
        ]
        with mongo_errors("importing"):
            added += collection.bulk_write(writes, ordered=False).upserted_count
    out.print(f"{len(rows)} images, {added} of them new")


def show(
    document_id: Annotated[str, typer.Argument(help="`_id`: ObjectId, number, string or JSON.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what the pipeline made of one document.

    Example: captionstream show 65f1c0ffee65f1c0ffee65f1
    """
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    with mongo_errors("reading a document"):
        document = DocumentStore(client, settings.mongo).collection.find_one(
            {"_id": {"$eq": parse_id(document_id)}}, {"img": 0}
        )
    if document is None:
        msg = f"no document has the id {document_id} in {settings.mongo.database}"
        raise SettingsError(msg)
    if as_json:
        typer.echo(json_util.dumps(document, json_options=json_util.RELAXED_JSON_OPTIONS))
        return
    out.print(f"_id       {document['_id']}", markup=False)
    for caption in document.get("captions") or []:
        out.print(f"reference {caption}", markup=False)
    outputs = document.get(OUTPUTS) or {}
    for model in MODELS:
        stored = (outputs.get(model.key) or {}).get(model.name)
        out.print(f"{model.name:15s} {_describe(stored)}", markup=False)


def _describe(stored: dict[str, Any] | None) -> str:
    if not stored:
        return "none yet"
    if "error" in stored:
        error = stored["error"]
        return f"{error['type']} after {error['attempts']} attempt(s): {error['message']}"
    value = stored["value"]
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return f"{text}  (score {stored.get('score', 0):.3f}, version {stored['version']})"
    return f"{(len(value) - 2) // 4} x float32  (version {stored['version']})"


def _images(sources: list[str], settings: Settings) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if source.startswith(("http://", "https://")):
            yield source, _download(source, settings.image.max_bytes)
            continue
        path = Path(source)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            if path.is_dir() and file.suffix.lower() not in _SUFFIXES:
                continue
            try:
                yield file.name, file.read_bytes()
            except OSError as exc:
                msg = f"cannot read {file}: {exc.strerror}"
                raise SettingsError(msg) from exc


def _download(url: str, max_bytes: int) -> bytes:
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30.0) as response:
            response.raise_for_status()
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > max_bytes:
                    msg = f"{url} is larger than {max_bytes} bytes (CAPTIONSTREAM_IMAGE__MAX_BYTES)"
                    raise SettingsError(msg)
            return bytes(data)
    except httpx.HTTPError as exc:
        msg = f"cannot download {url}: {exc}"
        raise SettingsError(msg) from exc
