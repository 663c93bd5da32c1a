"""Fitting a model on a snapshot: from its name to a version in the run's directory."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model
from streams.models.bundle import to_directory
from trainer.fit.dataset import read_fold
from trainer.fit.fitting import Epoch, Fitting, Progress
from trainer.fit.kinds import options_of, plugs_of
from trainer.fit.options import FitOptions, run_id
from trainer.fit.plugs import Material, Means, Plugs, Task
from trainer.fit.run_directory import LOCK, RUN, held, writing
from trainer.snapshot.files import Snapshot

BUNDLE: Final = "bundle"
_MEANS: Final = Means()


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What came out.

    Attributes:
        bundle: The version of the best epoch.
        run_id: Follows from name, snapshot and options.
        directory: Directory of the run.
        best_epoch: Epoch with the least validation loss.
        valid_loss: That loss.
        history: One entry for each epoch.
    """

    bundle: Bundle
    run_id: str
    directory: Path
    best_epoch: int
    valid_loss: float
    history: tuple[Epoch, ...]


def fit(
    model: Model,
    snapshot: Snapshot,
    options: FitOptions,
    directory: Path,
    *,
    resume: bool = False,
    is_job: bool = False,
    means: Means = _MEANS,
    progress: Callable[[Progress], None] = lambda _: None,
) -> FitResult:
    """Fit a model on the train fold; keep the weights of the least loss on the valid fold.

    With the same snapshot, options, device and number of threads, the version is the same, whether
    or not the fit was interrupted.

    Args:
        model: The model.
        snapshot: What to learn from.
        options: What decides the fit.
        directory: Directory of the trainer; the run goes to `runs/<run id>` below it.
        resume: Go on behind the last checkpoint of the same run, if there is one.
        is_job: Whether later jobs may remove the run.
        means: What it computes with.
        progress: Called some times each second, and at the end of each epoch.

    Raises:
        InvalidPipeline: The model's class cannot be imported here.
        SettingsError: The kind has no such option.
        TooLittleData: There is nothing to learn from or to measure on.
        TrainerError: A plug cannot be imported or fails, the loss is no number, another process
            works on the same run, or its directory cannot be written.
        InvalidCheckpoint: The checkpoint is damaged, or not this run's or this release's.
        InvalidSnapshot: The snapshot is damaged, or does not hold what the model reads.
    """
    plugs = plugs_of(model, options.plugs)
    of_kind = options_of(plugs, model, options)
    snapshot_id = snapshot.manifest.snapshot_id
    place = directory / "runs" / run_id(model.declaration, snapshot_id, options)
    about = {
        "name": model.name,
        "kind": model.declaration.kind,
        "snapshot_id": snapshot_id,
        "options": options.model_dump(),
    }
    with held(place):
        _prepare(place, {**about, "is_job": is_job}, resume=resume)
        material = Material(
            model=model,
            manifest=snapshot.manifest,
            train=read_fold(snapshot, "train", model, plugs.target),
            valid=read_fold(snapshot, "valid", model, plugs.target),
            options=options,
            of_kind=of_kind,
            directory=place,
            encode_texts=means.encode_texts,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            task = plugs.task(material)
        fitting = Fitting(plugs, task, options, place, means.device)
        if resume:
            fitting.restore()
        fitting.run(progress)
        return _finish(plugs, task, fitting, material)


def _finish(plugs: Plugs[Any], task: Task[Any], fitting: Fitting, material: Material) -> FitResult:
    """Measure the best epoch, and write its version."""
    place = material.directory
    best = fitting.take_best()
    found = dict(plugs.at_end(task.model, task, fitting.options))
    found["valid_loss"] = round(best["valid_loss"], 6)
    bundle = plugs.bundle(task.model, material, found)
    with writing(place):
        shutil.rmtree(place / BUNDLE, ignore_errors=True)
        to_directory(bundle, place / BUNDLE)
    return FitResult(
        bundle=bundle,
        run_id=place.name,
        directory=place,
        best_epoch=best["epoch"],
        valid_loss=best["valid_loss"],
        history=fitting.history,
    )


def _prepare(place: Path, about: Mapping[str, Any], *, resume: bool) -> None:
    """Say in the directory what the run is; empty it, unless it is to be resumed."""
    with writing(place):
        for path in () if resume else list(place.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        (place / RUN).write_text(json.dumps(about, indent=1) + "\n")
