"""The command that makes the project's own small CLIP."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from streams.errors import SettingsError
from streams.settings import ClipSettings
from trainer.scenes.pretrain.options import Options
from trainer.scenes.scenes import Scene, make_scenes

if TYPE_CHECKING:
    import torch

    from streams.models.clip import ClipEncoder
    from trainer.scenes.pretrain.objective import Losses

err = Console(stderr=True, highlight=False)

_USUAL: Final = Options()
_EVERY: Final = 10  # steps between two lines of JSON
#: Scenes of the probes, and seeds that no batch has drawn: those are far above.
_SEEN: Final = (1000, 1)
_FRESH: Final = (500, 2)


def pretrain_scenes(
    output: Annotated[Path, typer.Option(help="Directory of the config and the weights.")] = Path(
        ".captionstream/trainer/scenes_clip"
    ),
    steps: Annotated[int, typer.Option(min=2, help="Batches to learn from.")] = _USUAL.steps,
    batch_size: Annotated[int, typer.Option(min=2, help="Scenes a batch.")] = _USUAL.batch_size,
    seed: Annotated[int, typer.Option(min=0, help="Decides weights and scenes.")] = _USUAL.seed,
    threads: Annotated[int, typer.Option(min=1, help="Of torch; part of the result.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Pretrain the small CLIP for generated scenes, and say what can be read from its embeddings.

    The package brings the result already; this command is how it was made.

    Example: captionstream-trainer pretrain-scenes --output my_clip
    """
    import torch

    from streams.models.clip import ClipEncoder
    from streams.models.clip_weights import SCENES_CONFIG
    from trainer.scenes.pretrain.export import export
    from trainer.scenes.pretrain.training import pretrain

    _prepare(output)
    torch.set_num_threads(threads)
    options = Options(steps=steps, batch_size=batch_size, seed=seed)
    started = time.monotonic()
    with _progress(disable=as_json) as progress:
        task = progress.add_task("pretraining", total=steps, loss="")

        def on_step(step: int, losses: "Losses") -> None:
            if step % _EVERY and step != steps:
                return
            parts = {name: round(value, 4) for name, value in losses.as_numbers().items()}
            progress.update(task, completed=step, loss=f"{parts['total']:.3f}")
            if as_json:
                seconds = round(time.monotonic() - started, 1)
                typer.echo(json.dumps({"step": step, "seconds": seconds, **parts}))

        model = pretrain(SCENES_CONFIG, options, on_step)
    weights = export(model, SCENES_CONFIG, output)
    encoder = ClipEncoder(
        ClipSettings(model=str(output / SCENES_CONFIG.name), pretrained=str(weights))
    )
    _show(encoder, weights, as_json=as_json)


def _prepare(directory: Path) -> None:
    """Find out now, not after minutes of training, that the result could not be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        msg = f"{directory} cannot be written ({exc.strerror}); choose another with --output"
        raise SettingsError(msg) from exc


def _show(encoder: "ClipEncoder", weights: Path, *, as_json: bool) -> None:
    """Probe what was written, not what was trained: 16 bits are what ships."""
    import torch

    from trainer.scenes.pretrain.probes import probe

    def encode(scenes: Sequence[Scene]) -> "torch.Tensor":
        images = torch.stack([encoder.preprocess(scene.image()) for scene in scenes])
        chunks = [encoder.encode(chunk) for chunk in torch.split(images, 100)]
        return torch.cat([torch.from_numpy(chunk) for chunk in chunks])  # (B, D)

    seen, fresh = (list(make_scenes(count, seed=seed)) for count, seed in (_SEEN, _FRESH))
    shares = probe(encode, seen, fresh)
    if as_json:
        typer.echo(json.dumps({"version": encoder.version, "file": str(weights), "probes": shares}))
        return
    table = Table("attribute", "read rightly", box=None)
    for name, share in shares.items():
        table.add_row(name, f"{share:.4f}")
    err.print(table)
    err.print(f"{encoder.version} ({weights.stat().st_size / 1e6:.1f} MB)")
    typer.echo(weights)


def _progress(*, disable: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        *columns, TextColumn("loss {task.fields[loss]}"), *times, console=err, disable=disable
    )
