"""`make demo`: a whole stack on this machine, generated pictures in, results out, everything ended.

Speaks to the stack as any user does: a subprocess, its line of JSON, and plain pymongo.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pymongo import MongoClient
from pymongo.collection import Collection
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.errors import SettingsError
from streams.local.scenes import Scene, make_scenes

console = Console(highlight=False, soft_wrap=True)

#: Outputs land in any order.
_DONE: Final = {
    f"_outputs.img.{model}.version": {"$gt": ""} for model in ("clip", "clip_projection")
}
_DEADLINE_SECONDS: Final = 600.0
_SAMPLES: Final = 3


def demo(
    data_dir: Annotated[Path, typer.Option(help="Where the stack lives.")] = Path(
        ".captionstream/demo"
    ),
    documents: Annotated[int, typer.Option(help="How many pictures.")] = 200,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
) -> None:
    """Start a stack, insert generated pictures, and show what becomes of them."""
    with _stack(data_dir, keep=keep) as info:
        with MongoClient[dict[str, Any]](info["mongo_uri"]) as client:
            collection = client[info["database"]][info["collection"]]
            scenes, seconds = _insert_and_wait(collection, documents)
            _report(collection, scenes, seconds)
        if keep:
            console.print(f"\nThe stack runs on: captionstream status --data-dir {data_dir}")
            console.print(f"End it with: kill {info['pids']['supervisor']}")


@contextmanager
def _stack(data_dir: Path, *, keep: bool) -> Iterator[dict[str, Any]]:
    """Run `captionstream up`; its messages go to a file."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "up.log"
    environment = {"CAPTIONSTREAM_CLIP__PRETRAINED": "random", **os.environ}
    with log.open("w") as messages:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "streams.cli", "up", "--data-dir", str(data_dir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=keep,
        )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    with console.status("starting MongoDB, a broker, the publisher and four stages"):
        line = process.stdout.readline()
    if not line:
        msg = f"the stack did not start: {log.read_text().splitlines()[-1:]} (log: {log})"
        raise SettingsError(msg)
    try:
        yield json.loads(line)
    finally:
        if not keep:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _insert_and_wait(
    collection: Collection[dict[str, Any]], count: int
) -> tuple[dict[Any, Scene], float]:
    scenes: dict[Any, Scene] = {}
    before = collection.count_documents(_DONE)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        inserting = progress.add_task("inserted", total=count)
        finishing = progress.add_task("embedded and projected", total=count)
        for scene in make_scenes(count, seed=int(time.time())):
            row = {"img": scene.png(), "captions": scene.captions()}
            scenes[collection.insert_one(row).inserted_id] = scene
            progress.advance(inserting)
        while (done := collection.count_documents(_DONE) - before) < count:
            progress.update(finishing, completed=done)
            if time.monotonic() - started > _DEADLINE_SECONDS:
                msg = f"{count - done} documents did not finish; see the logs of the data directory"
                raise SettingsError(msg)
            time.sleep(0.5)
        progress.update(finishing, completed=count)
    return scenes, time.monotonic() - started


def _report(
    collection: Collection[dict[str, Any]], scenes: dict[Any, Scene], seconds: float
) -> None:
    table = Table(box=None, show_header=False)
    table.add_row("documents", str(len(scenes)))
    table.add_row("seconds", f"{seconds:.1f}")
    table.add_row("documents per second", f"{len(scenes) / seconds:.1f}")
    console.print(table)
    for document_id in list(scenes)[:_SAMPLES]:
        outputs = (collection.find_one({"_id": document_id}) or {})["_outputs"]["img"]
        clip, projection = outputs["clip"], outputs["clip_projection"]
        console.print(f"\n{document_id}: {scenes[document_id].captions()[0]}")
        for name, stored in (("clip", clip), ("clip_projection", projection)):
            vector = stored["value"].as_vector().data
            head = ", ".join(f"{number:+.3f}" for number in vector[:4])
            console.print(f"  {name:16s}[{head}, ...] {len(vector)} numbers, {stored['version']}")
        console.print("  conditional_lm  awaits a model: no captioner has been trained yet")
    if any("-random-" in stored["version"] for stored in (clip, projection)):
        console.print(
            "\nThe CLIP weights are random (CAPTIONSTREAM_CLIP__PRETRAINED=random): the numbers"
            " show that the pipeline works, not what is in the pictures."
        )


if __name__ == "__main__":
    typer.run(demo)
