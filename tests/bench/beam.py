"""What beam search gains on scenes that nobody has trained on. `python -m tests.bench.beam BUNDLE`.

Draws scenes, encodes them with the CLIP of the settings, and measures one captioner (a directory
with a bundle, as a fit leaves it) with several widths. Prints one JSON line for each: the metrics
of `evaluate`, and captions per second.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from streams.models import conditional_lm
from streams.models.bundle import from_directory
from streams.models.clip import ClipEncoder
from streams.settings import ClipSettings
from tests.pipelines import CLIP, CONDITIONAL_LM
from trainer.scenes.scenes import make_scenes
from trainer.snapshot.columns import feature_column
from trainer.snapshot.validation_set import Entry, ValidationSet, digest_of

_ENCODED_AT_ONCE = 64


def scenes_set(encoder: ClipEncoder, count: int, seed: int) -> ValidationSet:
    """Return a set of generated scenes, as it would be frozen from documents."""
    scenes = list(make_scenes(count, seed=seed))
    vectors = [
        row
        for start in range(0, count, _ENCODED_AT_ONCE)
        for row in encoder.encode(
            torch.stack(
                [encoder.preprocess(s.image()) for s in scenes[start : start + _ENCODED_AT_ONCE]]
            )
        )
    ]
    entries = tuple(
        Entry(
            id=str(number),
            captions=tuple(scene.captions()),
            values={feature_column(CLIP.name): vector},
            scene=scene.as_document(),
        )
        for number, (scene, vector) in enumerate(zip(scenes, vectors, strict=True))
    )
    return ValidationSet(
        name=f"scenes of seed {seed}",
        seed=seed,
        versions={CLIP.name: encoder.version},
        digest=digest_of(entries),
        entries=entries,
    )


def main() -> None:
    """Measure every width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of a bundle")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20_000, help="one that no training has used")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--clip", default="scenes", help="CAPTIONSTREAM_CLIP__MODEL")
    parser.add_argument("--pretrained", default="bundled")
    arguments = parser.parse_args()
    from trainer.evaluate.captioner import measure_captioner  # noqa: PLC0415 - slow
    from trainer.evaluate.evaluate import check_versions  # noqa: PLC0415 - slow

    torch.set_num_threads(1)  # as the stage
    encoder = ClipEncoder(ClipSettings(model=arguments.clip, pretrained=arguments.pretrained))
    validation_set = scenes_set(encoder, arguments.scenes, arguments.seed)
    bundle = from_directory(arguments.bundle)
    check_versions(bundle.manifest, validation_set)
    model = conditional_lm.from_bundle(bundle)
    vectors = torch.stack(
        [
            torch.from_numpy(entry.values[feature_column(CLIP.name)])
            for entry in validation_set.entries
        ]
    )
    for width in arguments.widths:
        started = time.perf_counter()
        for batch in vectors.split(32):
            model.generate(batch, beam_width=width)
        seconds = time.perf_counter() - started
        measured = measure_captioner(model, validation_set, CONDITIONAL_LM, beam=width)
        row = {
            "beam": width,
            **measured.metrics,
            "mean_score": round(sum(c.score for c in measured.captions) / len(vectors), 4),
            "captions_per_second": round(len(vectors) / seconds, 1),
        }
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
