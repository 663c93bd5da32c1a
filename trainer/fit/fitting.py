"""The loop: epochs over the train fold, a look at the valid fold after each, and checkpoints."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from streams.errors import InvalidCheckpoint, TrainerError
from trainer.fit.checkpoint import (
    Checkpoint,
    load_checkpoint,
    moments_of,
    restore_moments,
    save_checkpoint,
)
from trainer.fit.dataset import Examples
from trainer.fit.device import moved
from trainer.fit.options import FitOptions
from trainer.fit.plugs import Plugs, Task
from trainer.fit.run_directory import writing
from trainer.fit.splitter import FIXED, STRIDE, Batch, batches

HISTORY: Final = "history.jsonl"
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


class Fitting:
    """A model and its examples, some epochs into a fit.

    Attributes:
        options: What decides the fit.
    """

    def __init__(
        self,
        plugs: Plugs[Any],
        task: Task[Any],
        options: FitOptions,
        directory: Path,
        device: torch.device,
    ) -> None:
        self._plugs = plugs
        self._task = task
        self._device = device
        self._model = task.model.to(device)
        self.options = options
        self._directory = directory
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=options.rate)
        self._best_weights = self._copy()
        self._history: list[Epoch] = []
        #: Steps of an epoch: as many as the last one had, which a splitter decides.
        self._steps = -(-len(task.train) // options.batch_size)

    def restore(self) -> None:
        """Go on behind the last checkpoint, if there is one.

        Raises:
            InvalidCheckpoint: It is damaged, or was made by another fit or release than this.
        """
        checkpoint = load_checkpoint(self._directory)
        if checkpoint is None:
            return
        try:
            self._model.load_state_dict(checkpoint.weights)
            restore_moments(self._optimizer, checkpoint.moments)
            self._history = list(checkpoint.history)
            self._best()
        except (RuntimeError, ValueError, KeyError, TypeError) as exc:
            msg = (
                f"the checkpoint in {self._directory} is of another release of this program;"
                " fit again without --resume"
            )
            raise InvalidCheckpoint(msg) from exc
        self._best_weights = dict(checkpoint.best_weights)

    def run(self, progress: Callable[[Progress], None]) -> None:
        """Fit until the validation loss gets no better, or the epochs are over."""
        for epoch in range(len(self._history) + 1, self.options.max_epochs + 1):
            if self._is_stuck():
                return
            started = time.monotonic()
            train_loss, rate = self._train(epoch, progress)
            valid_loss = self._validate()
            steps = self._steps
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

    def take_best(self) -> Epoch:
        """Give the model the weights of the best epoch, on the CPU, and return that epoch."""
        self._model.cpu().load_state_dict(self._best_weights)
        self._model.eval()
        return self._best()

    @property
    def history(self) -> tuple[Epoch, ...]:
        """One entry for each epoch."""
        return tuple(self._history)

    def _train(self, epoch: int, progress: Callable[[Progress], None]) -> tuple[float, float]:
        """Return the mean loss of an epoch, and steps per second."""
        self._model.train()
        losses: list[torch.Tensor] = []  # reading each loss would make each step wait
        started = said_at = time.monotonic()
        with self._seeded(epoch):
            for inputs, targets, _ in self._drawn(self._task.train, epoch):
                self._optimizer.zero_grad(set_to_none=True)
                loss = self._plugs.objective(self._model, inputs, targets)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                losses.append(loss.detach())
                now = time.monotonic()
                if now - said_at > _SAY_SECONDS:
                    said_at = now
                    progress(self._progress(epoch, len(losses), float(losses[-1]), None))
        self._steps = len(losses)
        mean = float(torch.stack(losses).double().mean())
        if not math.isfinite(mean):
            msg = f"the loss of epoch {epoch} is {mean}: lower --rate (it is {self.options.rate})"
            raise TrainerError(msg)
        return mean, self._steps / (time.monotonic() - started)

    @torch.inference_mode()
    def _validate(self) -> float:
        """Return the mean loss per example of the valid fold, with the same targets each time."""
        self._model.eval()
        total, examples = 0.0, 0
        for inputs, targets, count in self._drawn(self._task.valid, FIXED):
            total += float(self._plugs.objective(self._model, inputs, targets)) * count
            examples += count
        loss = total / examples
        if not math.isfinite(loss):
            msg = f"the validation loss is {loss}: lower --rate (it is {self.options.rate})"
            raise TrainerError(msg)
        return loss

    def _drawn(self, examples: Examples, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch where the model is."""
        options = self.options
        drawn = batches(
            examples,
            seed=options.seed,
            epoch=epoch,
            size=options.batch_size,
            splitter=self._plugs.splitter,
        )
        for inputs, targets, count in drawn:
            yield moved(inputs, self._device), moved(targets, self._device), count

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Let what a model draws itself (dropout) follow from seed and epoch, too."""
        gpus = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(self.options.seed * STRIDE + epoch)
            yield

    def _best(self) -> Epoch:
        """Return the first epoch of the least validation loss."""
        return min(self._history, key=lambda done: (done["valid_loss"], done["epoch"]))

    def _is_stuck(self) -> bool:
        epochs = len(self._history)
        return epochs > 0 and epochs - int(self._best()["epoch"]) >= self.options.patience

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
        lines = "".join(json.dumps(done) + "\n" for done in self._history)
        with writing(self._directory):
            save_checkpoint(self._directory, checkpoint)
            (self._directory / HISTORY).write_text(lines)

    def _progress(self, epoch: int, step: int, loss: float, done: Epoch | None) -> Progress:
        return Progress(
            epoch=epoch,
            max_epochs=self.options.max_epochs,
            step=step,
            steps=self._steps,
            loss=loss,
            done=done,
        )
