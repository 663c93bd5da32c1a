"""Greedy decoding beside the seed's loop, as a ratio in one run. `python -m tests.bench.decode`.

The seed's loop is re-stated from its formulas: it embeds, steps the GRU and takes `topk(1)` of the
logits for `max_length - 1` words, whether the sentences have stopped or not, and makes texts in
Python. It is measured as it stands there, which keeps what a gradient would need, and without that,
which is the harder opponent. Both have the same weights; as after a training, sentences have about
ten words, which the bias of the stop token decides. Exit code 1: a ratio below the goal, or other
captions than the seed's.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from streams.models.conditional_lm import ConditionalLM
from streams.models.vocabulary import UNKNOWN, Vocabulary

GOAL = 3.0


def seed_captions(model: ConditionalLM, images: torch.Tensor) -> list[str]:
    """Return what the seed's `forward` and `postprocess` make of a batch of vectors (B, D)."""
    vocabulary, rows = model.vocabulary, images.shape[0]
    hidden = model.conditioning_linear(images).unsqueeze(0)  # (1, B, H)
    predictions = torch.zeros(rows, model.max_length, dtype=torch.long)
    predictions[:, 0] = vocabulary.start
    for i in range(model.max_length - 1):
        embedded = model.embedding(predictions[:, i]).unsqueeze(1)  # (B, 1, H)
        outputs, hidden = model.rnn(embedded, hidden)
        logits = model.prediction(outputs)[:, 0, :]  # (B, V + 2)
        predictions[:, i + 1] = logits.topk(1, dim=1)[1][:, 0]
    texts = []
    for row in predictions:
        tokens = row.tolist()
        end = tokens.index(vocabulary.stop) if vocabulary.stop in tokens else len(tokens)
        known = [token for token in tokens[:end] if token < len(vocabulary)]
        texts.append(" ".join(vocabulary.words[token] for token in known))
    return texts


@torch.inference_mode()
def without_gradients(model: ConditionalLM, images: torch.Tensor) -> list[str]:
    """Return the seed's captions, with nothing kept for a gradient."""
    return seed_captions(model, images)


def captioner(words: int, *, mean_length: float) -> ConditionalLM:
    """Return a captioner of the seed's sizes whose sentences have so many words on average."""
    torch.manual_seed(0)
    names = (*(f"w{number:04d}" for number in range(words - 1)), UNKNOWN)
    model = ConditionalLM(Vocabulary(names)).eval()
    images = torch.randn(128, model.n_condition)
    low, high = -5.0, 5.0
    for _ in range(20):  # the longer the sentences, the larger the bias of the stop has to be
        middle = (low + high) / 2
        with torch.no_grad():
            model.prediction.bias[model.vocabulary.stop] = middle
        if lengths(model, images) > mean_length:
            low = middle
        else:
            high = middle
    return model


def lengths(model: ConditionalLM, images: torch.Tensor) -> float:
    """Return the mean number of tokens of a caption, the stop included."""
    return statistics.mean(len(caption.tokens) for caption in model.generate(images))


def seconds(action: Callable[[], object]) -> float:
    """Return the processor time of one call, so that other processes do not count."""
    started = time.process_time()
    action()
    return time.process_time() - started


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = captioner(arguments.words, mean_length=10.5)
    images = torch.randn(arguments.batch, model.n_condition)
    ours = [caption.text for caption in model.generate(images)]
    theirs = seed_captions(model, images)
    rounds = [
        (
            seconds(lambda: seed_captions(model, images)),
            seconds(lambda: without_gradients(model, images)),
            seconds(lambda: model.generate(images)),
        )
        for _ in range(arguments.repeats)
    ]
    seed, bare, own = (statistics.median(column) for column in zip(*rounds, strict=True))
    results: dict[str, Any] = {
        "batch": arguments.batch,
        "vocabulary": arguments.words,
        "threads": arguments.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mean_tokens": lengths(model, images),
        "captions_that_begin_as_the_seeds": sum(
            mine.startswith(other) for mine, other in zip(ours, theirs, strict=True)
        ),
        "seed_captions_per_second": round(arguments.batch / seed, 1),
        "captions_per_second": round(arguments.batch / own, 1),
        "ratio": round(seed / own, 2),
        "ratio_to_the_seed_without_gradients": round(bare / own, 2),
        "ratio_goal": GOAL,
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    is_equal = results["captions_that_begin_as_the_seeds"] == arguments.batch
    sys.exit(int(results["ratio"] < GOAL or not is_equal))


if __name__ == "__main__":
    main()
