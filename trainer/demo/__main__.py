"""The demo as a program: two waves of pictures, a training between them, a table at the end."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from bson import ObjectId
from pymongo import MongoClient
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.errors import SettingsError, TrainerError
from streams.operate.commands.entry import run_app
from trainer.commands.context import place_of
from trainer.demo.feed import (
    CAPTIONED,
    CAPTIONED_OR_FAILED,
    EMBEDDED_OR_FAILED,
    FAILED,
    Documents,
    Feed,
    trickling,
    wait_for,
)
from trainer.demo.figures import Figures, latencies, percentile, read_captions, score
from trainer.demo.page import demo_page
from trainer.demo.stack import environment, running_stack
from trainer.evaluate.validation_sample import create_validation_set
from trainer.report.page import write_page
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import Scene, make_scenes
from trainer.snapshot.columns import Reads

app = typer.Typer(
    name="demo", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
console = Console(highlight=False, soft_wrap=True)

#: Share of the documents that come in the second wave. Nothing is fitted, stopped, measured or
#: chosen on them before the end.
_SECOND: Final = 0.15
#: Folds of twenty documents of the first wave.
_FOLDS: Final = (*["train"] * 18, "valid", "test")
#: Of the second wave: how fast while the trainer runs, and when a captioner serves.
_TRICKLE_PER_SECOND: Final = 1.0
_STEADY_PER_SECOND: Final = 10.0
#: Enough for these pictures, within a minute or so.
_FIT: Final = ("--option", "hidden=256", "--max-epochs", "40", "--patience", "8", "--threads", "1")
_DEADLINE_SECONDS: Final = 600.0
_SAMPLES: Final = 10


@app.command()
def demo(
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(
        ".captionstream/demo"
    ),
    documents: Annotated[int, typer.Option(min=100, help="How many pictures.")] = 2000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures.")] = 27,
) -> None:
    """Start a stack, insert generated pictures, train a captioner under load, show the captions."""
    started = time.monotonic()
    first, second = _waves(documents, seed)
    directory = data_dir / "stack"
    with ExitStack() as context:
        with console.status("starting MongoDB, a broker, the publisher and four stages"):
            info = context.enter_context(running_stack(directory, keep=keep))
        _say(started, "the stack is up")
        client = context.enter_context(MongoClient[dict[str, Any]](info["mongo_uri"]))
        collection = client[info["database"]][info["collection"]]
        feed = Feed(collection)
        rate = _first_wave(collection, feed, first)
        _say(started, f"{len(first)} pictures embedded and projected; training a captioner")
        # Now, so that the gate measures on pictures of the first wave only.
        place = place_of(directory)
        reads = Reads(pipeline=place.pipeline)
        create_validation_set(client, place.settings.mongo, reads)
        with feed.watching():
            promoted_at = _second_wave(collection, feed, second, directory)
            _say(started, "all captions are there")
        unseen = dict(list(feed.scenes.items())[len(first) :])
        captions = read_captions(collection, list(unseen))
        seconds = latencies(feed, promoted_at)
        scores = score(unseen, captions)
        figures = Figures(
            documents=collection.count_documents({}),
            captioned=collection.count_documents(CAPTIONED),
            failed=collection.count_documents(FAILED),
            scored=len(unseen),
            exact_match=scores["exact_match"],
            bleu4=scores["bleu4"],
            cider=scores["cider"],
            latency_p50_seconds=percentile(seconds, 50),
            latency_p95_seconds=percentile(seconds, 95),
            documents_per_second=rate,
            model_version=_version(collection),
            seconds=time.monotonic() - started,
        )
        _show(figures, unseen, captions)
        (data_dir / "report.json").write_text(json.dumps(figures.as_json(), indent=1) + "\n")
        write_page(data_dir / "report.html", demo_page(figures, unseen, captions))
        console.print(f"\nPictures: {data_dir / 'report.html'}")
        if keep:
            console.print(f"The stack runs on: captionstream status --data-dir {directory}")
            console.print(f"End it with: kill {info['pids']['supervisor']}")


def _waves(count: int, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Return two waves; no scene of the second shows what one of the first does."""
    later = round(count * _SECOND)
    scenes = make_scenes(10 * count, seed=seed)
    first = [next(scenes) for _ in range(count - later)]
    known = {scene.captions()[0] for scene in first} | {scene.captions()[1] for scene in first}
    fresh = (scene for scene in scenes if scene.captions()[0] not in known)
    second: dict[str, Scene] = {}
    while len(second) < later:
        scene = next(fresh)
        second.setdefault(scene.captions()[0], scene)
    return first, list(second.values())


def _first_wave(collection: Documents, feed: Feed, scenes: list[Scene]) -> float:
    """Insert as fast as it goes; return documents per second, until all are projected."""
    begun = time.monotonic()
    with _progress() as progress:
        inserting = progress.add_task("inserted", total=len(scenes))
        done = progress.add_task("embedded and projected", total=len(scenes))
        for scene, fold in zip(scenes, cycle(_FOLDS), strict=False):
            feed.insert(scene, fold=fold)
            progress.advance(inserting)
        _await(
            collection,
            EMBEDDED_OR_FAILED,
            len(scenes),
            on_progress=lambda count: progress.update(done, completed=count),
        )
    return len(scenes) / (time.monotonic() - begun)


def _second_wave(collection: Documents, feed: Feed, scenes: list[Scene], directory: Path) -> float:
    """Feed on while the trainer runs, and after it; return since when a captioner serves."""
    rest = iter(scenes)
    # However long the training takes, most of the wave comes when a captioner serves.
    early = islice(rest, len(scenes) // 3)
    total = len(feed.scenes) + len(scenes)
    with trickling(feed, early, per_second=_TRICKLE_PER_SECOND, fold="test"):
        _train(directory)
        _await(collection, CAPTIONED, 1)
    promoted_at = time.monotonic()
    with _progress() as progress:
        task = progress.add_task("captioned", total=total)
        for scene in rest:
            time.sleep(1 / _STEADY_PER_SECOND)
            feed.insert(scene, fold="test")
            progress.update(task, completed=len(feed.captioned_at))
        _await(
            collection,
            CAPTIONED_OR_FAILED,
            total,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    return promoted_at


def _train(directory: Path) -> None:
    """Run the retraining job, as an operator would schedule it."""
    command = [sys.executable, "-m", "trainer.cli", "run", "conditional_lm", *_FIT]
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--data-dir", str(directory)], env=environment(), check=False
    )
    if done.returncode != 0:
        msg = "the trainer failed; its message stands above"
        raise TrainerError(msg)


def _await(
    collection: Documents,
    query: Mapping[str, Any],
    count: int,
    *,
    on_progress: Any = lambda _: None,
) -> None:
    if not wait_for(collection, query, count, seconds=_DEADLINE_SECONDS, on_progress=on_progress):
        msg = "documents did not finish; see the logs of the data directory"
        raise SettingsError(msg)


def _version(collection: Documents) -> str:
    newest = collection.find_one(CAPTIONED, sort=[("_outputs._base.conditional_lm.at", -1)]) or {}
    return str(newest["_outputs"]["_base"]["conditional_lm"]["version"])


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _say(started: float, text: str) -> None:
    console.print(f"{time.monotonic() - started:5.0f} s  {text}")


def _show(
    figures: Figures, scenes: Mapping[ObjectId, Scene], captions: Mapping[ObjectId, str]
) -> None:
    table = Table(box=None, show_header=False)
    unseen = f"(of {figures.scored} unseen scenes)"
    for name, value in (
        ("documents", str(figures.documents)),
        ("captions", f"{figures.captioned} ({figures.failed} failed)"),
        ("exact match", f"{figures.exact_match:.3f} {unseen}"),
        ("BLEU-4", f"{figures.bleu4:.3f}"),
        ("CIDEr-D", f"{figures.cider:.2f}"),
        ("insert to caption p50", f"{figures.latency_p50_seconds:.2f} s"),
        ("insert to caption p95", f"{figures.latency_p95_seconds:.2f} s"),
        ("documents per second", f"{figures.documents_per_second:.1f} (embedded and projected)"),
        ("model version", figures.model_version),
        ("seconds", f"{figures.seconds:.0f}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for document_id in list(scenes)[:_SAMPLES]:
        said = captions.get(document_id, "")
        mark = "right" if is_right(said, scenes[document_id]) else "WRONG"
        console.print(f"  {document_id}  {mark}  {said}")


if __name__ == "__main__":
    run_app(app)
