"""`make bench`: measures, as ratios in one run, and prints JSON.

Images are the COCO photographs of `--images` (JPEG files below it); without them, generated ones.
Exit code 1: the ratio is below the goal, or the memory of a process of ours grows.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.bench.pipeline import Pipeline, bare_seconds_per_document

GOAL = 0.85
SHARED = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"


def load_images(directory: Path) -> list[bytes]:
    """Return the photographs, or 160 generated pictures of the same size."""
    files = sorted(directory.rglob("*.jpg")) if directory.is_dir() else []
    if files:
        return [file.read_bytes() for file in files]
    generator = random.Random(0)  # noqa: S311 - pictures, no secret
    return [_picture(generator) for _ in range(160)]


def _picture(generator: random.Random) -> bytes:
    small = Image.new("RGB", (16, 12))
    small.putdata([tuple(generator.randrange(256) for _ in range(3)) for _ in range(16 * 12)])
    data = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()


def main() -> None:
    """Measure the running pipeline beside a bare loop over the same images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    images = load_images(arguments.images)
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
        "images": {"count": len(images), "source": "coco" if len(images) != 160 else "generated"},
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
