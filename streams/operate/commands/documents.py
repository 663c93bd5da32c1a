"""Commands about documents: insert, import-coco, show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from bson import json_util
from rich.progress import track

from streams.contract.documents import (
    CAPTIONS,
    lookup,
)
from streams.contract.folds import fold_named
from streams.contract.values import decode_value
from streams.errors import CaptionstreamError, SettingsError
from streams.mongo.client import mongo_errors
from streams.mongo.store import DocumentStore, watched_collection
from streams.operate.coco import read_annotations
from streams.operate.commands.coco_import import CocoImport
from streams.operate.commands.context import (
    AsJson,
    DataDir,
    PassedOver,
    declared_pipeline,
    err,
    open_state,
    out,
    settings_of,
)
from streams.operate.commands.ids import parse_id
from streams.operate.commands.images import read_images
from streams.operate.commands.values import shown_value

_BATCH: Final = 50
_NO_OUTPUT: Final = "something that is no output of Captionstream"


def insert(
    sources: Annotated[
        list[str], typer.Argument(help="Image files, directories of them, or URLs.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Insert images as new documents and print their ids.

    Directories are gone through with all that is in them. What cannot be read, or is no image by
    its name, is named and passed over, the others are inserted; exit code 2 then. URLs are fetched
    under the limits and rules that hold for those in documents.

    Example: captionstream insert photo.jpg holiday/ https://example.org/cat.png
    """
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    collection = watched_collection(client, settings.mongo)
    passed_over = PassedOver()
    for name, image in read_images(sources, settings):
        if isinstance(image, CaptionstreamError):
            passed_over.note(image)
            continue
        with mongo_errors(f"inserting {name}"):
            document_id = collection.insert_one({"img": image, "name": name}).inserted_id
        out.print(f"{document_id}  {name}", markup=False)
    passed_over.end()


def import_coco(
    annotations: Annotated[Path, typer.Option(help="COCO captions file (JSON).")],
    images: Annotated[Path, typer.Option(help="Directory of the image files.")],
    fold: Annotated[
        str | None, typer.Option(help="`train`, `valid` or `test` for all of them.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where a document differs from the files.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Import annotated COCO images; running it again changes nothing.

    A document that has the id of an image already is left as it is. If it differs, it is named, as
    is whatever cannot be used of the files; exit code 2 then.

    Example: captionstream import-coco --annotations captions_val2017.json --images val2017
    """
    named = fold_named(fold)
    if fold is not None and named is None:
        msg = f"--fold must be train, valid or test, got {fold!r}"
        raise SettingsError(msg)
    settings = settings_of(data_dir)
    client, _ = open_state(settings)
    file = read_annotations(annotations, images)
    passed_over = PassedOver()
    for problem in file.passed_over:
        passed_over.note(problem)
    importer = CocoImport(
        watched_collection(client, settings.mongo),
        fold=named,
        may_replace=replace,
        pass_over=passed_over.note,
    )
    starts = range(0, len(file.images), _BATCH)
    for start in track(starts, description="importing", console=err, disable=not err.is_terminal):
        importer.add(file.images[start : start + _BATCH])
    out.print(f"{importer.present} images, {importer.added} of them new")
    passed_over.end()


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
    pipeline = declared_pipeline(settings, client)
    with mongo_errors("reading a document"):
        store = DocumentStore(client, settings.mongo, pipeline)
        document = store.collection.find_one({"_id": {"$eq": parse_id(document_id)}}, {"img": 0})
    if document is None:
        msg = f"no document has the id {document_id} in {settings.mongo.database}"
        raise SettingsError(msg)
    [document] = store.no_room.lay_over([document])
    if as_json:
        typer.echo(json_util.dumps(document, json_options=json_util.RELAXED_JSON_OPTIONS))
        return
    out.print(f"_id       {document['_id']}", markup=False)
    captions = document.get(CAPTIONS)
    for caption in captions if isinstance(captions, list) else []:
        out.print(f"reference {caption}", markup=False)
    width = max(15, *map(len, pipeline.models))
    for model in pipeline.models.values():
        out.print(f"{model.name:{width}s} {_describe(lookup(document, model.path))}", markup=False)


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
    if "value" not in fields:
        return _NO_OUTPUT
    try:
        shown = shown_value(decode_value(value))
    except ValueError:
        return _NO_OUTPUT
    return f"{shown}  ({f'score {score:.3f}, ' if isinstance(score, float) else ''}{version})"
