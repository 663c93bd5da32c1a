"""Fitting a model on a snapshot: one loop for every model, driven by its plugs."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from streams.errors import ModelNotFound, TrainerError
from streams.models.bundle import to_directory
from streams.models.manifest import Bundle
from trainer.captioner import CAPTIONER
from trainer.checkpoint import (
    Checkpoint,
    load_checkpoint,
    moments_of,
    restore_moments,
    save_checkpoint,
)
from trainer.dataset import read_fold
from trainer.options import FitOptions, run_id
from trainer.plugs import EncodeTexts, Material, Plugs, Task
from trainer.projector import PROJECTOR
from trainer.snapshot import Snapshot
from trainer.splitter import FIXED, batches, count_batches

PLUGS: Final[Mapping[str, Plugs[Any]]] = {plugs.name: plugs for plugs in (CAPTIONER, PROJECTOR)}
BUNDLE: Final = "bundle"
HISTORY: Final = "history.jsonl"
RUN: Final = "run.json"
#: Time between two words about the progress within an epoch.
_SAY_SECONDS: Final = 0.2

Epoch = Mapping[str, Any]
"""`epoch`, `step`, `train_loss`, `valid_loss`, `rate` and `seconds` of one epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a fit is.

    Attributes:
        epoch: Epoch that is under way, from 1.
        max_epochs: The last one, if nothing ends the fit before.
        step: Steps done in this epoch.
        steps: Steps of an epoch.
        loss: Loss of the last step.
        done: The epoch that just ended, None within one.
    """

    epoch: int
    max_epochs: int
    step: int
    steps: int
    loss: float
    done: Epoch | None = None


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
    name: str,
    snapshot: Snapshot,
    options: FitOptions,
    directory: Path,
    *,
    resume: bool = False,
    encode_texts: EncodeTexts | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> FitResult:
    """Fit a model on the train fold; keep the weights of the least loss on the valid fold.

    With the same snapshot, options and number of threads, the version is the same, whether or not
    the fit was interrupted.

    Args:
        name: Name of the model.
        snapshot: What to learn from.
        options: What decides the fit.
        directory: Directory of the trainer; the run goes to `runs/<run id>` below it.
        resume: Go on behind the last checkpoint of the same run, if there is one.
        encode_texts: CLIP's text tower, for a model that reads captions as vectors.
        progress: Called some times each second, and at the end of each epoch.

    Raises:
        ModelNotFound: No model of this name can be fitted.
        TooLittleData: There is nothing to learn from or to measure on.
        TrainerError: The loss is no number, or the checkpoint is damaged or not this run's.
        InvalidSnapshot: The snapshot is damaged.
    """
    plugs = PLUGS.get(name)
    if plugs is None:
        msg = f"no model {name!r} can be fitted; choose one of {', '.join(PLUGS)}"
        raise ModelNotFound(msg)
    place = _prepare(directory, name, snapshot, options, resume=resume)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        task = plugs.task(_material(snapshot, options, place, encode_texts))
    fitting = _Fitting(plugs, task, options, place)
    if resume:
        fitting.restore()
    fitting.run(progress)
    return fitting.finish(snapshot)


def _prepare(
    directory: Path, name: str, snapshot: Snapshot, options: FitOptions, *, resume: bool
) -> Path:
    """Return the directory of the run; empty, unless it is to be resumed."""
    snapshot_id = snapshot.manifest.snapshot_id
    place = directory / "runs" / run_id(name, snapshot_id, options)
    if not resume:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    about = {"name": name, "snapshot_id": snapshot_id, "options": options.model_dump()}
    (place / RUN).write_text(json.dumps(about, indent=1) + "\n")
    return place


def _material(
    snapshot: Snapshot, options: FitOptions, place: Path, encode_texts: EncodeTexts | None
) -> Material:
    return Material(
        manifest=snapshot.manifest,
        train=read_fold(snapshot, "train"),
        valid=read_fold(snapshot, "valid"),
        options=options,
        directory=place,
        encode_texts=encode_texts,
    )


class _Fitting:
    """One fit under way."""

    def __init__(
        self, plugs: Plugs[Any], task: Task[Any], options: FitOptions, directory: Path
    ) -> None:
        self._plugs = plugs
        self._task = task
        self._model = task.model
        self._options = options
        self._directory = directory
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=options.rate)
        self._best_weights = self._copy()
        self._history: list[Epoch] = []

    def restore(self) -> None:
        """Go on behind the last checkpoint, if there is one.

        Raises:
            TrainerError: It is damaged, or was made by another fit than this.
        """
        checkpoint = load_checkpoint(self._directory)
        if checkpoint is None:
            return
        try:
            self._model.load_state_dict(checkpoint.weights)
            restore_moments(self._optimizer, checkpoint.moments)
        except (RuntimeError, ValueError, KeyError) as exc:
            msg = (
                f"the checkpoint in {self._directory} is of another release of this program;"
                " fit again without --resume"
            )
            raise TrainerError(msg) from exc
        self._best_weights = dict(checkpoint.best_weights)
        self._history = list(checkpoint.history)

    def run(self, progress: Callable[[Progress], None]) -> None:
        """Fit until the validation loss gets no better, or the epochs are over."""
        for epoch in range(len(self._history) + 1, self._options.max_epochs + 1):
            if self._is_stuck():
                return
            started = time.monotonic()
            train_loss, rate = self._train(epoch, progress)
            valid_loss = self._validate()
            steps = count_batches(self._task.train, self._options.batch_size)
            done = {
                "epoch": epoch,
                "step": epoch * steps,
                "train_loss": train_loss,
                "valid_loss": valid_loss,
                "rate": round(rate, 2),
                "seconds": round(time.monotonic() - started, 3),
            }
            self._history.append(done)
            if self._best()["epoch"] == epoch:
                self._best_weights = self._copy()
            self._keep()
            progress(self._progress(epoch, steps, train_loss, done))

    def finish(self, snapshot: Snapshot) -> FitResult:
        """Return and write the version of the best epoch."""
        self._model.load_state_dict(self._best_weights)
        self._model.eval()
        best = self._best()
        found = dict(self._plugs.metrics(self._model, self._task, self._options))
        found["valid_loss"] = round(best["valid_loss"], 6)
        bundle = self._plugs.bundle(self._model, snapshot.manifest, found)
        place = self._directory / BUNDLE
        shutil.rmtree(place, ignore_errors=True)
        to_directory(bundle, place)
        return FitResult(
            bundle=bundle,
            run_id=self._directory.name,
            directory=self._directory,
            best_epoch=best["epoch"],
            valid_loss=best["valid_loss"],
            history=tuple(self._history),
        )

    def _train(self, epoch: int, progress: Callable[[Progress], None]) -> tuple[float, float]:
        """Return the mean loss of an epoch, and steps per second."""
        options, train = self._options, self._task.train
        steps = count_batches(train, options.batch_size)
        self._model.train()
        losses = torch.zeros(steps)  # reading each loss would make each step wait
        started = said_at = time.monotonic()
        drawn = batches(train, seed=options.seed, epoch=epoch, size=options.batch_size)
        for step, (vectors, targets) in enumerate(drawn):
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._plugs.objective(self._model, vectors, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses[step] = loss.detach()
            now = time.monotonic()
            if now - said_at > _SAY_SECONDS:
                said_at = now
                progress(self._progress(epoch, step + 1, float(losses[step]), None))
        mean = float(losses.double().mean())
        if not math.isfinite(mean):
            msg = f"the loss of epoch {epoch} is {mean}: lower --rate (it is {options.rate})"
            raise TrainerError(msg)
        return mean, steps / (time.monotonic() - started)

    @torch.inference_mode()
    def _validate(self) -> float:
        """Return the mean loss per image of the valid fold, with the same captions each time."""
        options, valid = self._options, self._task.valid
        self._model.eval()
        total = 0.0
        drawn = batches(valid, seed=options.seed, epoch=FIXED, size=options.batch_size)
        for vectors, targets in drawn:
            total += float(self._plugs.objective(self._model, vectors, targets)) * len(vectors)
        loss = total / len(valid)
        if not math.isfinite(loss):
            msg = f"the validation loss is {loss}: lower --rate (it is {options.rate})"
            raise TrainerError(msg)
        return loss

    def _best(self) -> Epoch:
        """Return the first epoch of the least validation loss."""
        return min(self._history, key=lambda done: (done["valid_loss"], done["epoch"]))

    def _is_stuck(self) -> bool:
        epochs = len(self._history)
        return epochs > 0 and epochs - int(self._best()["epoch"]) >= self._options.patience

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    def _keep(self) -> None:
        """Write the checkpoint, then the history for people and programs."""
        checkpoint = Checkpoint(
            epoch=len(self._history),
            weights=self._model.state_dict(),
            best_weights=self._best_weights,
            moments=moments_of(self._optimizer),
            history=tuple(self._history),
        )
        save_checkpoint(self._directory, checkpoint)
        lines = "".join(json.dumps(done) + "\n" for done in self._history)
        (self._directory / HISTORY).write_text(lines)

    def _progress(self, epoch: int, step: int, loss: float, done: Epoch | None) -> Progress:
        return Progress(
            epoch=epoch,
            max_epochs=self._options.max_epochs,
            step=step,
            steps=count_batches(self._task.train, self._options.batch_size),
            loss=loss,
            done=done,
        )
