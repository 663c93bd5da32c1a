"""The bare loop: decode, preprocess, `encode_image`, batch 32. `python -m tests.bench.bare DIR`.

Prints seconds per image; one batch warms up, then every image counts once.
"""

import sys
import time
from pathlib import Path

import open_clip
import torch
from PIL import Image

BATCH = 32


def main() -> None:
    """Encode every file of the directory."""
    files = sorted(Path(sys.argv[1]).iterdir())
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("RN50", pretrained=None)
    model.eval()

    def encode(paths: list[Path]) -> None:
        images = torch.stack([preprocess(Image.open(path)) for path in paths])
        with torch.inference_mode():
            model.encode_image(images)

    encode(files[:BATCH])
    started = time.monotonic()
    for start in range(0, len(files), BATCH):
        encode(files[start : start + BATCH])
    sys.stdout.write(str((time.monotonic() - started) / len(files)))


if __name__ == "__main__":
    main()
