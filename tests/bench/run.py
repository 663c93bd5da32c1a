"""`make bench`: measures, as ratios in one run, and prints JSON.

Images are the COCO photographs of `--images` (JPEG files below it); without them, generated ones.
Exit code 1: the ratio is below the goal, or the memory of a process of ours grows.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.photographs import SHARED, photographs
from tests.bench.pipeline import Pipeline, bare_seconds_per_document

GOAL = 0.85


def main() -> None:
    """Measure the running pipeline beside a bare loop over the same images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    photos = photographs(arguments.images)
    images = photos.images
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CAPTIONSTREAM_")},
        "CAPTIONSTREAM_CLIP__MODEL": "RN50",
        "CAPTIONSTREAM_CLIP__PRETRAINED": "random",
    }
    with tempfile.TemporaryDirectory() as name:
        files = Path(name) / "images"
        files.mkdir()
        for number, image in enumerate(images):
            (files / f"{number:04d}.jpg").write_bytes(image)
        # Before and after, since the machine's speed drifts; never beside the pipeline.
        bare = [bare_seconds_per_document(files)]
        with Pipeline(Path(name), environment) as running:
            pipeline = running.measure(images, arguments.documents)
        bare.append(bare_seconds_per_document(files))
    results: dict[str, Any] = {
        "images": photos.report,
        "bare_loop_documents_per_second": [round(1 / seconds, 2) for seconds in bare],
        "pipeline_documents_per_second": round(pipeline["documents_per_second"], 2),
        "ratio_to_bare_loop": round(pipeline["documents_per_second"] * statistics.mean(bare), 3),
        "ratio_goal": GOAL,
        "processor_milliseconds_per_document": pipeline["processor_milliseconds_per_document"],
        "memory": pipeline["memory"],
        "flat": pipeline["flat"],
    }
    text = json.dumps(results, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.out:
        arguments.out.write_text(text)
    sys.exit(int(results["ratio_to_bare_loop"] < GOAL or not results["flat"]))


if __name__ == "__main__":
    main()
