"""Real captions: vocabulary, round trips, training. `python -m tests.bench.coco_vocabulary`.

Reads COCO's caption annotations. Every fifth image, in the order of their ids, is held out. The
vectors are noise: this measures words and speed, and its losses say nothing about images.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.models.words import join_words, normalize, words_of
from tests.unit.trainer.snapshots import CAPTIONER, CLIP, write_snapshot
from trainer.fit.captioner import CaptionerOptions
from trainer.fit.fit import fit
from trainer.fit.options import FitOptions
from trainer.snapshot.reader import Row

CAPTIONS = Path(__file__).parents[3] / "shared" / "data" / "captions_val2017.json"
DIMENSION = 1024
VALID_EVERY = 5

Captions = Mapping[int, Sequence[str]]


def load_captions(path: Path) -> Captions:
    """Return the captions of each image, in the order of the images' ids."""
    images: dict[int, list[str]] = defaultdict(list)
    for row in json.loads(path.read_text())["annotations"]:
        images[row["image_id"]].append(row["caption"])
    return dict(sorted(images.items()))


def folds(images: Captions) -> tuple[list[str], list[str]]:
    """Return all captions of the train fold, and all of the valid fold."""
    train: list[str] = []
    valid: list[str] = []
    for number, captions in enumerate(images.values()):
        (train if number % VALID_EVERY else valid).extend(captions)
    return train, valid


def about(images: Captions, max_length: int) -> dict[str, Any]:
    """Return what the captions are like."""
    lengths = [len(normalize(text)) for captions in images.values() for text in captions]
    return {
        "images": len(images),
        "captions": len(lengths),
        "median_words": statistics.median(lengths),
        "most_words": max(lengths),
        "captions_without_words": lengths.count(0),
        f"captions_of_more_than_{max_length}_words": _share(
            length > max_length for length in lengths
        ),
    }


def vocabulary_row(train: Sequence[str], valid: Sequence[str], min_count: int) -> dict[str, Any]:
    """Return size, share of unknown words and round trips for one `min_count`."""
    vocabulary = Vocabulary.from_captions(train, min_count=min_count)
    row: dict[str, Any] = {"min_count": min_count, "vocabulary": len(vocabulary)}
    for name, fold in (("train", train), ("valid", valid)):
        known = [vocabulary.known(text) for text in fold]
        row[f"unknown_words_{name}"] = _share(not word for text in known for word in text)
        row[f"captions_with_unknown_{name}"] = _share(not all(text) for text in known)
    row["round_trips_that_differ"] = sum(
        not comes_back(text, vocabulary) for text in [*train, *valid]
    )
    return row


def comes_back(text: str, vocabulary: Vocabulary) -> bool:
    """Tell whether a caption survives encoding whole: known words as they are, others unknown."""
    words, known = words_of(text), vocabulary.known(text)
    ids = vocabulary.encode(text, max_length=len(words))
    wanted = join_words(w if k else UNKNOWN for w, k in zip(words, known, strict=True))
    return vocabulary.decode(ids) == wanted and ids[len(words) :] == [vocabulary.stop]


def training_row(images: Captions, *, epochs: int, batch: int) -> dict[str, Any]:
    """Return how fast a captioner is fitted on these captions, with noise for images.

    All that a fit does counts: reading, encoding, validation, checkpoints and the version.
    """
    options = FitOptions(max_epochs=epochs, patience=epochs, batch_size=batch)
    with tempfile.TemporaryDirectory() as name:
        snapshot = write_snapshot(Path(name), _rows(images))
        started = time.process_time()  # so that other processes do not count
        result = fit(CAPTIONER, snapshot, options, Path(name))
        seconds = time.process_time() - started
    size = snapshot.manifest.folds["train"]
    return {
        "training_images": size,
        "batch": batch,
        "hidden": result.bundle.manifest.config["n_hidden"],
        "vocabulary": len(result.bundle.manifest.vocabulary or ()),
        "threads": torch.get_num_threads(),
        "epochs": epochs,
        "processor_seconds": round(seconds, 1),
        "images_per_processor_second": round(epochs * size / seconds, 1),
        "train_loss": [round(done["train_loss"], 4) for done in result.history],
        "valid_loss": [round(done["valid_loss"], 4) for done in result.history],
    }


def _rows(images: Captions) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for number, (image, captions) in enumerate(images.items()):
        yield Row(
            id=str(image),
            fold="train" if number % VALID_EVERY else "valid",
            captions=tuple(captions),
            values={CLIP: generator.standard_normal(DIMENSION).astype(np.float32)},
        )


def _share(told: Iterator[bool]) -> float:
    """Return the share of what is true, to four places."""
    return round(float(np.mean(list(told))), 4)


def main() -> None:
    """Measure and print a line of JSON for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, default=CAPTIONS)
    parser.add_argument("--min-counts", type=int, nargs="+", default=[0, 1, 2, 5, 10, 20])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.captions.is_file():
        _say({"skipped": f"{arguments.captions} is not there; give COCO's captions by --captions"})
        return
    images = load_captions(arguments.captions)
    _say(about(images, CaptionerOptions().max_length))
    train, valid = folds(images)
    for min_count in arguments.min_counts:
        _say(vocabulary_row(train, valid, min_count))
    _say(training_row(images, epochs=arguments.epochs, batch=arguments.batch))


def _say(row: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
