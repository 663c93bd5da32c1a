"""The fit beside a bare loop over the same tensors, as a ratio. `python -m tests.bench.training`.

The bare loop has its batches ready and does nothing but step: no draws, no history, no checkpoints.
It begins with the fit's weights and takes the fit's batches, so that its losses show that both did
the same work. Passes alternate in one process: an epoch of the fit, then the same epoch bare.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch

from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.vocabulary import Vocabulary
from tests.unit.trainer.snapshots import write_snapshot
from trainer.captioner import encode_captions
from trainer.dataset import Examples, make_examples, read_fold
from trainer.fit import Progress, fit
from trainer.options import FitOptions
from trainer.snapshot import Snapshot
from trainer.snapshot_reader import Row
from trainer.splitter import batches

DIMENSION = 1024
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
            clip=generator.standard_normal(DIMENSION).astype(np.float32),
        )


class Bare:
    """The shortest loop that fits the same model on the same batches."""

    def __init__(self, snapshot: Snapshot, options: FitOptions) -> None:
        """Make the examples and the model as the fit does."""
        fold = read_fold(snapshot, "train")
        vocabulary = Vocabulary.from_captions(fold.captions, min_count=options.min_count)
        encode = partial(encode_captions, vocabulary=vocabulary, max_length=options.max_length)
        self.examples: Examples = make_examples(fold, encode)
        self.options = options
        torch.manual_seed(options.seed)
        self.model = ConditionalLM(
            vocabulary,
            n_condition=DIMENSION,
            n_hidden=options.hidden,
            max_length=options.max_length,
        )
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=options.rate)

    def run(self, epoch: int) -> tuple[float, float]:
        """Return the mean loss of an epoch, and steps per second."""
        options, start = self.options, self.model.vocabulary.start
        ready = [
            (
                vectors,
                torch.cat([targets.new_full((len(targets), 1), start), targets[:, :-1]], 1),
                targets,
            )
            for vectors, targets in batches(
                self.examples, seed=options.seed, epoch=epoch, size=options.batch_size
            )
        ]
        losses = []
        started = time.monotonic()
        for vectors, tokens, targets in ready:
            self._optimizer.zero_grad(set_to_none=True)
            loss = autoregressive_loss(self.model.train_forward(vectors, tokens), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(loss.detach())
        seconds = time.monotonic() - started
        return float(torch.stack(losses).double().mean()), len(ready) / seconds


def measure(batch: int, *, words: int, steps: int, passes: int) -> dict[str, Any]:
    """Return one row: both rates at one batch size, and their ratio."""
    options = FitOptions(min_count=0, batch_size=batch, max_epochs=passes + 1, patience=passes + 1)
    with tempfile.TemporaryDirectory() as name:
        snapshot = write_snapshot(Path(name), rows(batch * steps, words))
        bare = Bare(snapshot, options)
        losses, rates = [], []

        def beside(now: Progress) -> None:
            if now.done is not None:
                loss, rate = bare.run(now.epoch)
                losses.append(loss)
                rates.append(rate)

        history = fit("conditional_lm", snapshot, options, Path(name), progress=beside).history
    pairs = [(done["rate"], rate) for done, rate in zip(history, rates, strict=True)][1:]
    own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "batch": batch,
        "vocabulary": len(bare.model.vocabulary),
        "threads": torch.get_num_threads(),
        "steps_per_pass": steps,
        "passes": passes,
        "bare_steps_per_second": round(other, 2),
        "steps_per_second": round(own, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least_and_most": [round(min(ratios), 3), round(max(ratios), 3)],
        "ratio_goal": 0.9,
        "epochs_of_equal_loss": sum(
            math.isclose(done["train_loss"], loss, rel_tol=1e-6)
            for done, loss in zip(history, losses, strict=True)
        ),
        "seconds_between_epochs": round(
            statistics.median(done["seconds"] - steps / done["rate"] for done in history[1:]), 2
        ),
    }


def main() -> None:
    """Measure each batch size and print a line of JSON for it; the first pass warms up."""
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
    for batch in arguments.batches:
        steps = max(1, arguments.images // batch)
        row = measure(batch, words=arguments.words, steps=steps, passes=arguments.passes)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
