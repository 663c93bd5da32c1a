"""The fit beside a bare loop over the same tensors, as a ratio. `python -m tests.bench.training`.

The bare loop has its batches ready and does nothing but step: no draws, no history, no checkpoints.
It begins with the fit's weights and takes the fit's batches, so that its losses show that both did
the same work. Passes alternate in one process: an epoch of the fit, then the same epoch bare. Rates
are of processor time, so that other processes do not count. Exit code 1: a ratio below the goal, or
losses that differ.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch

from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from tests.unit.trainer.snapshots import CAPTIONER, CLIP, material_of, write_snapshot
from trainer.fit.fitting import Fitting
from trainer.fit.kinds import plugs_of
from trainer.fit.options import FitOptions
from trainer.fit.plugs import Task
from trainer.fit.splitter import batches
from trainer.snapshot.reader import Row

DIMENSION = 1024
GOAL = 0.9
#: So many images are held out; they cost a validation, which is no training step.
VALID = 50


def rows(count: int, words: int) -> Iterator[Row]:
    """Yield random vectors with captions of 8 to 13 words, in which every word comes up."""
    generator = np.random.default_rng(0)
    names = ["".join(letters) for letters in product(ascii_lowercase, repeat=3)][: words - 1]
    generator.shuffle(names)
    drawn = cycle(names)
    for number in range(count + VALID):
        length = int(generator.integers(8, 14))
        yield Row(
            id=str(number),
            fold="train" if number < count else "valid",
            captions=(" ".join(next(drawn) for _ in range(length)),),
            values={CLIP: generator.standard_normal(DIMENSION).astype(np.float32)},
        )


class Bare:
    """The shortest loop that fits a copy of the model on the same batches."""

    def __init__(self, task: Task[ConditionalLM], options: FitOptions) -> None:
        """Copy the model, before it is fitted."""
        self._model = copy.deepcopy(task.model)
        self._train = task.train
        self._options = options
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=options.rate)

    def run(self, epoch: int) -> tuple[float, float]:
        """Return the mean loss of an epoch, and its processor seconds."""
        seed, size = self._options.seed, self._options.batch_size
        drawn = list(batches(self._train, seed=seed, epoch=epoch, size=size))
        start = self._model.vocabulary.start
        inputs = [
            torch.cat([targets.new_full((len(targets), 1), start), targets[:, :-1]], dim=1)
            for _, targets, _ in drawn
        ]
        losses = []
        started = time.process_time()
        for (vectors, targets, _), tokens in zip(drawn, inputs, strict=True):
            self._optimizer.zero_grad(set_to_none=True)
            loss = autoregressive_loss(self._model.train_forward(vectors, tokens), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(loss.detach())
        seconds = time.process_time() - started
        return float(torch.stack(losses).double().mean()), seconds


def measure(batch: int, *, words: int, steps: int, passes: int) -> dict[str, Any]:
    """Return one row: both rates at one batch size, and their ratio; the first pass warms up."""
    options = FitOptions(batch_size=batch, kind={"min_count": 0})
    plugs = plugs_of(CAPTIONER)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        snapshot = write_snapshot(place, rows(batch * steps, words))
        torch.manual_seed(options.seed)
        task = plugs.task(material_of(snapshot, CAPTIONER, options, place))
        bare = Bare(task, options)
        fitting = Fitting(plugs, task, options, place, torch.device("cpu"))
        pairs, equal = [], 0
        for epoch in range(1, passes + 2):
            started = time.process_time()
            loss, _ = fitting._train(epoch, lambda _: None)
            own = time.process_time() - started
            other_loss, other = bare.run(epoch)
            pairs.append((steps / own, steps / other))
            equal += math.isclose(loss, other_loss, rel_tol=1e-6)
        started = time.process_time()
        fitting._keep()
        keep = time.process_time() - started
    ratios = [mine / theirs for mine, theirs in pairs[1:]]
    mine, theirs = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    return {
        "batch": batch,
        "vocabulary": len(task.model.vocabulary),
        "threads": torch.get_num_threads(),
        "steps_per_pass": steps,
        "bare_steps_per_second": round(theirs, 2),
        "steps_per_second": round(mine, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least_and_most": [round(min(ratios), 3), round(max(ratios), 3)],
        "ratio_goal": GOAL,
        "passes": passes + 1,
        "passes_of_equal_loss": equal,
        "checkpoint_seconds": round(keep, 2),
    }


def main() -> None:
    """Measure each batch size and print a line of JSON for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=6000)
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 256])
    parser.add_argument(
        "--images", type=int, default=1024, help="of a pass; too few bring up too few words"
    )
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    has_failed = False
    for batch in arguments.batches:
        steps = max(1, arguments.images // batch)
        row = measure(batch, words=arguments.words, steps=steps, passes=arguments.passes)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        has_failed |= row["ratio"] < GOAL or row["passes_of_equal_loss"] < row["passes"]
    sys.exit(int(has_failed))


if __name__ == "__main__":
    main()
