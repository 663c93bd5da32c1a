"""Commands about documents: insert, import-coco, show."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from bson import Binary, json_util
from pymongo import UpdateOne
from rich.progress import track

from streams.coco import read_annotations
from streams.commands.context import AsJson, DataDir, err, open_state, out, settings_of
from streams.commands.ids import parse_id
from streams.commands.images import check_size, read_images
from streams.documents import CAPTIONS, MODELS, decode_vector, lookup
from streams.errors import CaptionstreamError, SettingsError
from streams.folds import fold_named
from streams.mongo import mongo_errors
from streams.store import DocumentStore

_BATCH: Final = 50


def insert(
    sources: Annotated[
        list[str], typer.Argument(help="Image files, directories of them, or URLs.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Insert images as new documents and print their ids.

    What cannot be read is named, the others are inserted; exit code 2 then. URLs are fetched under
    the limits and rules that `featurize` has for those in documents.

    Example: captionstream insert photo.jpg holiday/ https://example.org/cat.png
    """
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    collection = DocumentStore(client, settings.mongo).collection
    has_failed = False
    for name, image in read_images(sources, settings):
        if isinstance(image, CaptionstreamError):
            _complain(image)
            has_failed = True
            continue
        with mongo_errors(f"inserting {name}"):
            document_id = collection.insert_one({"img": image, "name": name}).inserted_id
        out.print(f"{document_id}  {name}", markup=False)
    if has_failed:
        raise typer.Exit(2)


def import_coco(
    annotations: Annotated[Path, typer.Option(help="COCO captions file (JSON).")],
    images: Annotated[Path, typer.Option(help="Directory of the image files.")],
    fold: Annotated[
        str | None, typer.Option(help="`train`, `valid` or `test` for all of them.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Import annotated COCO images; running it again changes nothing.

    Example: captionstream import-coco --annotations captions_val2017.json --images val2017
    """
    named = fold_named(fold)
    if fold is not None and named is None:
        msg = f"--fold must be train, valid or test, got {fold!r}"
        raise SettingsError(msg)
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    collection = DocumentStore(client, settings.mongo).collection
    rows = read_annotations(annotations, images)
    added = failed = 0
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, description="importing", console=err, disable=not err.is_terminal):
        writes = []
        for row in rows[start : start + _BATCH]:
            document = row.document(named)
            try:
                check_size(str(row.path), document)
            except SettingsError as exc:
                _complain(exc)
                failed += 1
                continue
            writes.append(UpdateOne({"_id": row.image_id}, {"$set": document}, upsert=True))
        if writes:
            with mongo_errors("importing"):
                added += collection.bulk_write(writes, ordered=False).upserted_count
    out.print(f"{len(rows) - failed} images, {added} of them new")
    if failed:
        raise typer.Exit(2)


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
    captions = document.get(CAPTIONS)
    for caption in captions if isinstance(captions, list) else []:
        out.print(f"reference {caption}", markup=False)
    for model in MODELS:
        out.print(f"{model.name:15s} {_describe(lookup(document, model.path))}", markup=False)


def _complain(exc: CaptionstreamError) -> None:
    err.print(f"captionstream: {exc}", markup=False, soft_wrap=True)


def _describe(stored: Any) -> str:
    """Return one line about an output; anything may stand in its place."""
    if stored is None:
        return "none yet"
    fields: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    error, value, score = fields.get("error"), fields.get("value"), fields.get("score")
    version = f"version {fields.get('version')}"
    if isinstance(error, Mapping):
        attempts = error.get("attempts")
        return f"{error.get('type')} after {attempts} attempt(s): {error.get('message')}"
    if isinstance(value, str):
        shown = f"score {score:.3f}, " if isinstance(score, float) else ""
        return f"{json.dumps(value, ensure_ascii=False)}  ({shown}{version})"
    try:
        return f"{len(decode_vector(cast(Binary, value)))} x float32  ({version})"
    except ValueError:
        return "something that is no output of Captionstream"
